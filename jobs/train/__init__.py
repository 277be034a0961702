"""The train stage: Horovod workers that train one model, data-parallel, on shards that Petastorm feeds."""
