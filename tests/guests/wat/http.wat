;; Wants the network.
(component
  (import "wasi:http/outgoing-handler@0.2.6" (instance))
  (import "dask:operator/host@0.1.0" (instance))
  (import "acme:secrets/read" (instance)))
