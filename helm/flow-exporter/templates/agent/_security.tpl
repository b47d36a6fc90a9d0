{{/*
Capabilities of the agent, as its features need them.

BPF, PERFMON and NET_ADMIN load the program and attach it. Whoever looks at the processes of others
reads their descriptors (SYS_PTRACE, DAC_READ_SEARCH) and goes into their network namespaces
(SYS_ADMIN); so does who observes named namespaces.
*/}}
{{- define "flow-exporter.capabilities" -}}
{{- $wanted := list "BPF" "NET_ADMIN" "PERFMON" -}}
{{- if include "flow-exporter.looksAtProcesses" . }}{{ $wanted = concat $wanted (list "DAC_READ_SEARCH" "SYS_ADMIN" "SYS_PTRACE") }}{{ end -}}
{{- if include "flow-exporter.entersNamespaces" . }}{{ $wanted = append $wanted "SYS_ADMIN" }}{{ end -}}
{{- concat $wanted .Values.extraCapabilities | uniq | sortAlpha | toJson }}
{{- end }}

{{- define "flow-exporter.securityContext" -}}
# Capabilities of a container are effective for root only; all but these are gone.
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: {{ include "flow-exporter.capabilities" . }}
seccompProfile:
  {{- toYaml .Values.seccompProfile | nindent 2 }}
{{- with .Values.appArmorProfile }}
appArmorProfile:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
