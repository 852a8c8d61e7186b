"""The storage contract and the engines that keep it."""
