;; Imports a type of its own, which nothing provides.
(component
  (import "acme" (type (sub resource)))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
