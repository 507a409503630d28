"""Whole data sets: `clsspec batch`.

A `sources` module lists what there is (`listing`), which is kept in the run's folder (`run`) beside
the `fingerprint` of everything that the results depend on. The listing is cut into shards; a shard
is read, decoded, computed (`pipeline`) and written (`sinks`), and its record comes last (`shards`).
So a run that is killed goes on with the shards that have no record, wherever they are computed.
Bytes are read and written through `trees`: folders here, and object stores.
"""
