{{/* A text that YAML or --set may have read as a number: 1.36, or 20261122, which Go would print as 2.0261122e+07. */}}
{{- define "dask-wasm-operator.text" -}}
{{- if kindIs "invalid" . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}
{{- else }}{{ . }}
{{- end }}
{{- end }}

{{/* A map of texts. */}}
{{- define "dask-wasm-operator.texts" -}}
{{- range $key, $value := . }}
{{ $key | quote }}: {{ include "dask-wasm-operator.text" $value | quote }}
{{- end }}
{{- end }}

{{/* A list of texts, as JSON. */}}
{{- define "dask-wasm-operator.list" -}}
{{- $texts := list }}
{{- range . }}{{ $texts = append $texts (include "dask-wasm-operator.text" .) }}{{ end }}
{{- toJson $texts }}
{{- end }}

{{- define "dask-wasm-operator.name" -}}
{{- default .Chart.Name (include "dask-wasm-operator.text" .Values.nameOverride) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of what the chart makes: the release's name, and the chart's unless that is part of it already. */}}
{{- define "dask-wasm-operator.fullname" -}}
{{- $name := include "dask-wasm-operator.name" . }}
{{- $fullname := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $fullname (include "dask-wasm-operator.text" .Values.fullnameOverride) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dask-wasm-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dask-wasm-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "dask-wasm-operator.labels" -}}
{{ include "dask-wasm-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dask-wasm-operator.serviceAccountName" -}}
{{- default (ternary (include "dask-wasm-operator.fullname" .) "default" .Values.serviceAccount.create) (include "dask-wasm-operator.text" .Values.serviceAccount.name) }}
{{- end }}

{{/* What is served where that is not all namespaces, as JSON: names or patterns, by default the release's namespace. */}}
{{- define "dask-wasm-operator.namespaces" -}}
{{- include "dask-wasm-operator.list" (default (list .Release.Namespace) .Values.namespaces) }}
{{- end }}

{{/* What is served, for people. */}}
{{- define "dask-wasm-operator.scope" -}}
{{- if and .Values.rbac.cluster (not .Values.namespaces) }}all namespaces
{{- else }}{{ include "dask-wasm-operator.namespaces" . | fromJsonArray | join "; " }}
{{- end }}
{{- end }}
