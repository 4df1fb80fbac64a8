"""The image of ``deploy/container/Dockerfile``, built and run without Docker, and the manifests beside it.

- ``image``: the file's steps, run in a root from Debian's archive, a layer for each; ``container``: pods and containers
  of namespaces, with what a runtime gives them; ``reach``: talking to what listens in a pod
- ``deployment``: pods behind a Service, which are probed, replaced and killed
"""
