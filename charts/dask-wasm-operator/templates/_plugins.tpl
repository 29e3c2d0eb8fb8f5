{{/*
The plural of a kind in access rules: lower case, and the ending as in English. Kubernetes guesses likewise, except that it
makes "gatewaies" of Gateway.
*/}}
{{- define "dask-wasm-operator.plural" -}}
{{- $name := lower .kind }}
{{- if .plural }}{{ .plural }}
{{- else if hasSuffix "s" $name }}{{ $name }}es
{{- else if regexMatch "[^aeiou]y$" $name }}{{ trimSuffix "y" $name }}ies
{{- else }}{{ $name }}s
{{- end }}
{{- end }}

{{/* The spec of a DaskPlugin: its values without what is only meant for the chart. */}}
{{- define "dask-wasm-operator.pluginSpec" -}}
{{- $spec := deepCopy (omit . "name") }}
{{- range $grants := pick (default dict $spec.grants) "create" "patch" "read" }}
{{- range $grants }}{{ $_ := unset . "plural" }}{{ end }}
{{- end }}
{{- toYaml $spec }}
{{- end }}

{{/* The accounts in whose names plugins write, as JSON. */}}
{{- define "dask-wasm-operator.pluginAccounts" -}}
{{- $names := list }}
{{- range .Values.plugins }}{{- with .serviceAccountName }}{{ $names = append $names . }}{{ end }}{{ end }}
{{- include "dask-wasm-operator.list" $names | fromJsonArray | uniq | toJson }}
{{- end }}

{{/*
The rules that the grants of all plugins need. Where a plugin has an account, the operator watches in its own name and writes in
the account's.
*/}}
{{- define "dask-wasm-operator.pluginRules" -}}
{{- range $plugin := .Values.plugins }}
{{- $grants := default dict $plugin.grants }}
{{- $watch := list "get" "list" "watch" }}
{{- $writes := not $plugin.serviceAccountName }}
{{- range $grants.create }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ include "dask-wasm-operator.plural" . }}]
  verbs: {{ ternary (concat $watch (list "create" "patch" "delete")) $watch $writes | toJson }}
{{- end }}
{{- range $grants.patch }}
{{- $plural := include "dask-wasm-operator.plural" . }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ $plural }}]
  verbs: {{ ternary (append $watch "patch") $watch $writes | toJson }}
{{- if and $writes (regexMatch "(^|,)status(\\.|\\[|,|$)" (join "," .fields)) }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ $plural }}/status]
  verbs: [patch]
{{- end }}
{{- end }}
{{- range $grants.read }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ include "dask-wasm-operator.plural" . }}]
  verbs: [get, list, watch]
{{- end }}
{{- end }}
{{- end }}
