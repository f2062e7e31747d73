{{- define "amend.name" -}}
{{- default "amend" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}
{{- define "amend.serviceAccountName" -}}
{{- default (include "amend.name" .) .Values.serviceAccount.name -}}
{{- end }}
{{- define "amend.selector" -}}
app.kubernetes.io/name: amend
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "amend.labels" -}}
{{ include "amend.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- define "amend.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}
{{- define "amend.scheme" -}}
{{- if .Values.tls.secret }}HTTPS{{ else }}HTTP{{ end -}}
{{- end }}
{{- /* Not the selector's labels: the Service must not send anything to a test. */}}
{{- define "amend.testLabels" -}}
app.kubernetes.io/name: amend-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- define "amend.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
