"""A real Cassandra from Python packages alone: one node or three, for development and the tests.

``python -m reference_cluster start --nodes 3`` and ``stop``, ``clean``, ``status``; the tests use
``node.Node`` and ``cluster.Cluster`` directly. Nothing here is meant for production: see
docs/storage.md for what a cluster of one's own needs.
"""
