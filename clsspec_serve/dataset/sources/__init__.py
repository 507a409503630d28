"""Where pictures come from: files, WebDataset tars, Parquet tables; here or in an object store."""
