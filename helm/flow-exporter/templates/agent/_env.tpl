{{/* The agent's environment: what only the node knows, and what was given. */}}
{{- define "flow-exporter.env" -}}
{{- $agent := include "flow-exporter.config" . | fromYaml | dig "agent" dict -}}
{{- if not (hasKey $agent "name") }}
# The host's own name may be another than the node's.
- name: FLOW_EXPORTER_AGENT__NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}
{{- if not (or (hasKey $agent "address") (hasKey $agent "interface") (has "netobserv" .Values.presets)) }}
- name: FLOW_EXPORTER_AGENT__ADDRESS
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
{{- if has "netobserv" .Values.presets }}
{{ toYaml .Values.netobserv.env }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
