;; Wants of the operator what it does not offer.
(component
  (import "dask:operator/host@0.1.0" (instance (export "read-secret" (func (param "name" string) (result string)))))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
