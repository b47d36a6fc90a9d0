{{/*
Capabilities of the agent, as its features need them.

BPF, PERFMON and NET_ADMIN load the program and attach it. Who looks at the processes of others sees
their namespaces and descriptors with SYS_PTRACE, lists the descriptors with DAC_READ_SEARCH, and goes
into namespaces with SYS_ADMIN; so does who observes named namespaces.
*/}}
{{- define "flow-exporter.capabilities" -}}
{{- $config := include "flow-exporter.config" . | fromYaml -}}
{{- $wanted := list "BPF" "NET_ADMIN" "PERFMON" -}}
{{- if $config.capture.netns }}{{ $wanted = append $wanted "SYS_ADMIN" }}{{ end -}}
{{- if $config.capture.containers }}{{ $wanted = concat $wanted (list "SYS_ADMIN" "SYS_PTRACE") }}{{ end -}}
{{- if kindIs "map" (dig "enrich" "processes" nil $config) }}{{ $wanted = concat $wanted (list "DAC_READ_SEARCH" "SYS_ADMIN" "SYS_PTRACE") }}{{ end -}}
{{- concat $wanted .Values.extraCapabilities | uniq | sortAlpha | toJson }}
{{- end }}

{{- define "flow-exporter.securityContext" -}}
{{- if .Values.runAsNonRoot }}
{{- if or .Values.pin.enabled .Values.spool.enabled }}{{ fail "runAsNonRoot goes without pin.enabled and spool.enabled: both are directories of the node's root" }}{{ end }}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
privileged: false
# Kubernetes gives users capabilities only through a file that has them, as the image's program.
allowPrivilegeEscalation: true
{{- else }}
# Capabilities of a container are effective for root only; all but these are gone.
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
{{- end }}
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
