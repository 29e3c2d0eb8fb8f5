;; One table more than a plugin may have.
(component
  (core module $code (table 1 funcref))
  (core module $tables
    (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)
    (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref))
  (core instance (instantiate $tables))
  (core instance (instantiate $tables))
  (core instance (instantiate $code))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
