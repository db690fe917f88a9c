{{- define "graft.labels" -}}
app.kubernetes.io/name: graft
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "graft.selector" -}}
app.kubernetes.io/name: graft
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "graft.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end }}

{{- /* The operator as the API server knows it. */ -}}
{{- define "graft.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ .Values.serviceAccount.name }}
{{- end }}

{{- /* What the operator asks the chart's Prometheus with: one named key of one named Secret, or a token of its own; nothing without any. */ -}}
{{- define "graft.prometheus" -}}
{{- with .Values.prometheus }}
{{- if and .tokenSecret.name .tokenAudience }}
{{- fail "prometheus: set tokenSecret.name or tokenAudience, not both" }}
{{- end }}
{{- if .url }}
{{- if .tokenSecret.name }}
- secret: {name: {{ .tokenSecret.name }}, items: [{key: {{ .tokenSecret.key }}, path: token}]}
{{- end }}
{{- if .tokenAudience }}
- serviceAccountToken: {audience: {{ .tokenAudience | quote }}, expirationSeconds: 3600, path: token}
{{- end }}
{{- if .caConfigMap.name }}
- configMap: {name: {{ .caConfigMap.name }}, items: [{key: {{ .caConfigMap.key }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
