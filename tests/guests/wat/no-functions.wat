;; Exports the handler's name without its functions.
(component
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
