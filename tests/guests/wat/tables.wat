;; Two tables in one module, which is legal: what is missing are the handler's functions.
(component
  (core module $code (table 1 funcref) (table 1 funcref))
  (core instance (instantiate $code))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
