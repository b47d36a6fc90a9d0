{{/* Where a secret's keys are files. */}}
{{- define "flow-exporter.secretPath" -}}
/etc/flow-exporter/secrets/{{ . }}
{{- end }}

{{/* The tls section of a sink. The argument: (dict "tls" .Values.kafka.tls "name" "kafka-tls"). */}}
{{- define "flow-exporter.tls" -}}
{{- $directory := include "flow-exporter.secretPath" .name -}}
{{- $tls := dict -}}
{{- if .tls.secretName -}}
{{- range $key := list "ca" "certificate" "key" -}}
{{- with index $.tls $key }}{{ $_ := set $tls $key (printf "%s/%s" $directory .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .tls.serverName }}{{ $_ := set $tls "server_name" . }}{{ end -}}
{{ toYaml $tls }}
{{- end }}

{{/* The tls section of what the agent serves. The argument: as above, with clientCa or not. */}}
{{- define "flow-exporter.servedTls" -}}
{{- $directory := include "flow-exporter.secretPath" .name -}}
certificate: {{ $directory }}/{{ .tls.certificate }}
key: {{ $directory }}/{{ .tls.key }}
{{- with .tls.clientCa }}
client_ca: {{ $directory }}/{{ . }}
{{- end }}
{{- end }}

{{/* The section observe. */}}
{{- define "flow-exporter.observe" -}}
{{- with .Values.observe -}}
{{- if not (or .tls.secretName .plaintext (has .host (list "127.0.0.1" "::1" "localhost"))) -}}
{{- fail "observe.tls.secretName is needed, unless observe.host is 127.0.0.1; observe.plaintext shows all flows to whoever reaches the address" -}}
{{- end -}}
address: {{ include "flow-exporter.address" . | quote }}
clients: {{ int .clients }}
{{- if .tls.secretName }}
tls: {{ include "flow-exporter.servedTls" (dict "tls" .tls "name" "observe-tls") | fromYaml | toJson }}
{{- else if .plaintext }}
plaintext: true
{{- end }}
{{- end }}
{{- end }}

{{/* host:port of a section. */}}
{{- define "flow-exporter.address" -}}
{{ if contains ":" .host }}[{{ .host }}]{{ else }}{{ .host }}{{ end }}:{{ int .port }}
{{- end }}

{{- define "flow-exporter.sink.prometheus" -}}
{{- $labels := list -}}
{{- range .Values.prometheus.labels -}}
{{- if or $.Values.kubernetes.enabled (not (contains "_k8s_" .)) }}{{ $labels = append $labels . }}{{ end -}}
{{- end -}}
{{- if .Values.geoip.databases }}{{ $labels = concat $labels .Values.geoip.labels }}{{ end -}}
{{- if dig "enrich" "networks" "" .Values.config }}{{ $labels = concat $labels (list "src_network_name" "dst_network_name") }}{{ end -}}
{{- with .Values.prometheus -}}
name: prometheus
type: prometheus
labels: {{ toJson $labels }}
schema: {{ .schema }}
limit: {{ int .limit }}
{{- end }}
{{- end }}

{{/* Beside the other at one address, so that it has names of its own, and a limit of its own. */}}
{{- define "flow-exporter.sink.talkers" -}}
name: talkers
type: prometheus
labels: [src_addr, dst_addr]
schema: obi
limit: {{ int .Values.prometheus.talkers.limit }}
{{- end }}

{{- define "flow-exporter.sink.kafka" -}}
{{- with .Values.kafka -}}
name: kafka
type: kafka
brokers: {{ required "kafka.brokers is needed: host:port of some brokers, with commas" .brokers | quote }}
topic: {{ .topic | quote }}
layout: {{ .layout }}
schema: {{ .schema }}
compression: {{ .compression }}
{{- if .tls.enabled }}
tls: {{ include "flow-exporter.tls" (dict "tls" .tls "name" "kafka-tls") | fromYaml | toJson }}
{{- end }}
{{- if .sasl.secretName }}
sasl:
  mechanism: {{ .sasl.mechanism }}
  username_file: {{ include "flow-exporter.secretPath" "kafka-sasl" }}/{{ .sasl.username }}
  password_file: {{ include "flow-exporter.secretPath" "kafka-sasl" }}/{{ .sasl.password }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flow-exporter.sink.otlp" -}}
{{- with .Values.otlp -}}
name: otlp
type: otlp
endpoint: {{ required "otlp.endpoint is needed: host:port of a collector" .endpoint | quote }}
protocol: {{ .protocol }}
signal: {{ .signal }}
schema: {{ .schema }}
compression: {{ .compression }}
{{- if eq .signal "metrics" }}
metrics: {{ dict "attributes" .attributes | toJson }}
{{- end }}
{{- if .tls.enabled }}
tls: {{ include "flow-exporter.tls" (dict "tls" .tls "name" "otlp-tls") | fromYaml | toJson }}
{{- end }}
{{- if .bearer.secretName }}
bearer: {{ include "flow-exporter.secretPath" "otlp-bearer" }}/{{ .bearer.key }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The agent's configuration: what the presets and the other values make, with .Values.config over it.
Sinks of the presets and those of .Values.config are all there.
*/}}
{{- define "flow-exporter.config" -}}
{{- $presets := .Values.presets | uniq -}}
{{- $own := deepCopy .Values.config -}}
{{- $capture := dict -}}
{{- $enrich := dict -}}
{{- $metrics := dict "address" (include "flow-exporter.address" .Values.metrics) -}}
{{- if .Values.metrics.tls.secretName -}}
{{- $_ := set $metrics "tls" (include "flow-exporter.servedTls" (dict "tls" .Values.metrics.tls "name" "metrics-tls") | fromYaml) -}}
{{- end -}}
{{- $config := dict "capture" $capture "metrics" $metrics -}}
{{- if .Values.observe.enabled }}{{ $_ := set $config "observe" (include "flow-exporter.observe" . | fromYaml) }}{{ end -}}
{{- if .Values.pin.enabled }}{{ $_ := set $capture "pin" .Values.pin.path }}{{ end -}}
{{- if .Values.spool.enabled -}}
{{- $_ := set $config "spool" (dict "directory" "/var/lib/flow-exporter/spool" "octets" .Values.spool.octets) -}}
{{- end -}}
{{- if .Values.kubernetes.enabled -}}
{{- $kubernetes := dict "owners" .Values.kubernetes.owners -}}
{{- with .Values.kubernetes.labels }}{{ $_ := set $kubernetes "labels" . }}{{ end -}}
{{- with .Values.kubernetes.annotations }}{{ $_ := set $kubernetes "annotations" . }}{{ end -}}
{{- if .Values.kubeCache.enabled -}}
{{- $_ := set $kubernetes "cache" (printf "grpc://%s:50055" (include "flow-exporter.cacheName" .)) -}}
{{- end -}}
{{- $_ := set $enrich "kubernetes" $kubernetes -}}
{{- end -}}
{{- with .Values.geoip.databases -}}
{{- $paths := list -}}
{{- range . }}{{ $paths = append $paths (printf "/usr/share/GeoIP/%s" .) }}{{ end -}}
{{- $_ := set $enrich "geoip" (dict "databases" $paths) -}}
{{- end -}}
{{- if $enrich }}{{ $_ := set $config "enrich" $enrich }}{{ end -}}
{{- $sinks := list -}}
{{- range $presets -}}
{{- if ne . "netobserv" -}}
{{- $sinks = append $sinks (include (printf "flow-exporter.sink.%s" .) $ | fromYaml) -}}
{{- end -}}
{{- if and (eq . "prometheus") $.Values.prometheus.talkers.enabled -}}
{{- $sinks = append $sinks (include "flow-exporter.sink.talkers" $ | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- if and $own.sinks (not (kindIs "slice" $own.sinks)) }}{{ fail "config.sinks must be a list" }}{{ end -}}
{{- $sinks = concat $sinks (default list $own.sinks) -}}
{{- if has "netobserv" $presets -}}
{{- if $sinks }}{{ fail "the preset netobserv takes its destination from its environment: no other preset, and no config.sinks, go with it" }}{{ end -}}
{{- $_ := set $capture "gso" .Values.netobserv.gso -}}
{{- else if $sinks -}}
{{- $_ := set $config "sinks" $sinks -}}
{{- else -}}
{{- fail "flows go nowhere: choose presets, or give config.sinks" -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite $config (omit $own "sinks")) }}
{{- end }}

{{/*
What of the configuration an agent does not change while it runs: another one means another pod.
The rest (sinks, exclusions, labels) a running agent takes up when it sees the changed file.
*/}}
{{- define "flow-exporter.fixedConfig" -}}
{{- $config := include "flow-exporter.config" . | fromYaml -}}
{{- $spools := dict -}}
{{- range $config.sinks }}{{ if kindIs "map" . }}{{ if .spool }}{{ $_ := set $spools (default .type .name) .spool }}{{ end }}{{ end }}{{ end -}}
{{- $enrich := omit ($config.enrich | default dict) "labels" "derive" -}}
{{- toYaml (merge (dict "spools" $spools "enrich" $enrich) (omit $config "sinks" "exclude" "log_level" "shutdown_timeout" "enrich")) }}
{{- end }}

{{/* "yes" if the agent looks at other processes: containers behind interfaces, owners of sockets. */}}
{{- define "flow-exporter.looksAtProcesses" -}}
{{- $config := include "flow-exporter.config" . | fromYaml -}}
{{- if or $config.capture.containers (kindIs "map" (dig "enrich" "processes" nil $config)) -}}yes{{- end }}
{{- end }}

{{/* "yes" if the agent observes named network namespaces of the host. */}}
{{- define "flow-exporter.entersNamespaces" -}}
{{- $config := include "flow-exporter.config" . | fromYaml -}}
{{- if $config.capture.netns }}yes{{ end }}
{{- end }}

{{/* "yes" if /metrics and the probes are served over TLS. */}}
{{- define "flow-exporter.metricsTls" -}}
{{- $tls := include "flow-exporter.config" . | fromYaml | dig "metrics" "tls" nil -}}
{{- if kindIs "map" $tls -}}
{{- if $tls.client_ca }}{{ fail "config.metrics.tls.client_ca: the kubelet has no certificate to show, and its probes would fail" }}{{ end -}}
yes
{{- else if has "netobserv" .Values.presets -}}
{{- $given := dict -}}
{{- range .Values.netobserv.env }}{{ $_ := set $given .name (default "" .value) }}{{ end -}}
{{- if and $given.METRICS_TLS_CERT_PATH (has (lower (default "" $given.METRICS_ENABLE)) (list "1" "t" "true")) }}yes{{ end -}}
{{- end -}}
{{- end }}

{{/* "yes" if the agent itself asks the API server. */}}
{{- define "flow-exporter.asksApiServer" -}}
{{- $kubernetes := include "flow-exporter.config" . | fromYaml | dig "enrich" "kubernetes" nil -}}
{{- if kindIs "map" $kubernetes }}{{ if not (or $kubernetes.cache $kubernetes.kubeconfig) }}yes{{ end }}{{ end }}
{{- end }}

{{/* Secrets that are mounted: a list of {name, secretName, optional}. */}}
{{- define "flow-exporter.secrets" -}}
{{- $found := .Values.secrets -}}
{{- if has "kafka" .Values.presets -}}
{{- if and .Values.kafka.tls.enabled .Values.kafka.tls.secretName }}{{ $found = append $found (dict "name" "kafka-tls" "secretName" .Values.kafka.tls.secretName) }}{{ end -}}
{{- if .Values.kafka.sasl.secretName }}{{ $found = append $found (dict "name" "kafka-sasl" "secretName" .Values.kafka.sasl.secretName) }}{{ end -}}
{{- end -}}
{{- if has "otlp" .Values.presets -}}
{{- if and .Values.otlp.tls.enabled .Values.otlp.tls.secretName }}{{ $found = append $found (dict "name" "otlp-tls" "secretName" .Values.otlp.tls.secretName) }}{{ end -}}
{{- if .Values.otlp.bearer.secretName }}{{ $found = append $found (dict "name" "otlp-bearer" "secretName" .Values.otlp.bearer.secretName) }}{{ end -}}
{{- end -}}
{{- if .Values.metrics.tls.secretName }}{{ $found = append $found (dict "name" "metrics-tls" "secretName" .Values.metrics.tls.secretName) }}{{ end -}}
{{- if and .Values.observe.enabled .Values.observe.tls.secretName }}{{ $found = append $found (dict "name" "observe-tls" "secretName" .Values.observe.tls.secretName) }}{{ end -}}
{{ toYaml (dict "secrets" $found) }}
{{- end }}

{{/* Rules of a role that may ask for what Kubernetes enrichment needs, and nothing else. */}}
{{- define "flow-exporter.rules" -}}
- apiGroups: [""]
  resources: [nodes, pods, services]
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
{{- if eq (include "flow-exporter.owners" .) "watch" }}
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{- define "flow-exporter.owners" -}}
{{- include "flow-exporter.config" . | fromYaml | dig "enrich" "kubernetes" "owners" .Values.kubernetes.owners }}
{{- end }}
