"""A Spark cluster of a job's own, inside its allocation: started, used by one command, closed down."""
