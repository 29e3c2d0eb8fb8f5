;; Begins with more memory than any plugin may have.
(component
  (core module $code (memory 8193))
  (core instance (instantiate $code))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
