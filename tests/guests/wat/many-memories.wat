;; One memory more than a plugin may have.
(component
  (core module $code (memory 1))
  (core instance (instantiate $code))
  (core instance (instantiate $code))
  (core instance (instantiate $code))
  (core instance (instantiate $code))
  (core instance (instantiate $code))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
