;; Begins with one table element more than a plugin may have, in two tables of one module.
(component
  (core module $code (table 1 funcref) (table 100000 funcref))
  (core instance (instantiate $code))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
