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

{{/* The rules that the grants of all plugins need. */}}
{{- define "dask-wasm-operator.pluginRules" -}}
{{- range $plugin := .Values.plugins }}
{{- $grants := default dict $plugin.grants }}
{{- range $grants.create }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ include "dask-wasm-operator.plural" . }}]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- range $grants.patch }}
{{- $plural := include "dask-wasm-operator.plural" . }}
- apiGroups: [{{ default "" .group | quote }}]
  resources: [{{ $plural }}]
  verbs: [get, list, watch, patch]
{{- if regexMatch "(^|,)status(\\.|\\[|,|$)" (join "," .fields) }}
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
