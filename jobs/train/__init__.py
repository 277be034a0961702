"""The train stage: Horovod ranks train one model, data-parallel, on shards that Petastorm reads."""
