"""A real Cassandra cluster of one or three nodes, from Python packages only, for development and tests.

``python -m reference_cluster start --nodes 3`` and ``stop``, ``clean``, ``status``; the tests use
``node.Node`` and ``cluster.Cluster`` directly. Not for production: see docs/storage-cassandra.md for what a
production cluster needs.
"""
