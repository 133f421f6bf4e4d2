"""The store: Parquet parts that hold the embeddings of one backbone."""
