{{- define "dask-wasm-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of what the chart makes: the release's name, and the chart's unless that is part of it already. */}}
{{- define "dask-wasm-operator.fullname" -}}
{{- $name := include "dask-wasm-operator.name" . }}
{{- $fullname := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $fullname .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dask-wasm-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dask-wasm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dask-wasm-operator.labels" -}}
{{ include "dask-wasm-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dask-wasm-operator.serviceAccountName" -}}
{{- default (ternary (include "dask-wasm-operator.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* What is served where that is not all namespaces, as JSON: names or patterns, by default the release's namespace. */}}
{{- define "dask-wasm-operator.namespaces" -}}
{{- default (list .Release.Namespace) .Values.namespaces | toJson }}
{{- end }}

{{/* What is served, for people. */}}
{{- define "dask-wasm-operator.scope" -}}
{{- if and .Values.rbac.cluster (not .Values.namespaces) }}all namespaces
{{- else }}{{ include "dask-wasm-operator.namespaces" . | fromJsonArray | join "; " }}
{{- end }}
{{- end }}
