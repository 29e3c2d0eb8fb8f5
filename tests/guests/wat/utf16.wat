;; Passes strings as UTF-16.
(component
  (core module $code
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
    (func (export "run") (param i32 i32)))
  (core instance $code (instantiate $code))
  (func $run (param "text" string)
    (canon lift (core func $code "run") string-encoding=utf16 (memory $code "memory") (realloc (func $code "realloc"))))
  (instance $handler (export "handle" (func $run)))
  (export "dask:operator/handler@0.1.0" (instance $handler)))
