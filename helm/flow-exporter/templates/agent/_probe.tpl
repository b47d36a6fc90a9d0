{{/* One that asks the agent. The argument: (dict "root" $ "path" "/readyz"). */}}
{{- define "flow-exporter.probe" -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if include "flow-exporter.metricsTls" .root }}
  scheme: HTTPS
  {{- end }}
  {{- with .root.Values.metrics.host }}
  host: {{ . | quote }}
  {{- end }}
{{- end }}
