"""A Spark cluster for one job, inside its allocation: started, used by one command, shut down."""
