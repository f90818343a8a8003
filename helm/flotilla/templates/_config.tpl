{{/* A value in TOML. YAML's numbers come as floating point, which TOML tells from integers. */}}
{{- define "flotilla.toml.value" -}}
{{- if kindIs "string" . -}}
{{ toJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "flotilla.toml.value" $item }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ if regexMatch "^[A-Za-z0-9_-]+$" $key }}{{ $key }}{{ else }}{{ toJson $key }}{{ end }} = {{ include "flotilla.toml.value" (index $ $key) }}{{ end }} }
{{- else -}}
{{ int64 . }}
{{- end -}}
{{- end -}}

{{- define "flotilla.toml.section" -}}
{{- range $key := keys . | sortAlpha }}
{{ $key }} = {{ include "flotilla.toml.value" (index $ $key) }}
{{- end }}
{{- end -}}

{{- define "flotilla.toml.listener" -}}
{{- $table := dict "name" .name "protocol" .protocol "bind" (printf "%s:%d" .address (int .port)) -}}
{{- if .encrypted -}}
{{- $_ := set $table "cert" (printf "/etc/flotilla/tls/%s/tls.crt" .name) -}}
{{- $_ := set $table "key" (printf "/etc/flotilla/tls/%s/tls.key" .name) -}}
{{- if .tls.clientCa.existingSecret -}}
{{- $_ := set $table "client_ca" (printf "/etc/flotilla/client-ca/%s/%s" .name (default "ca.crt" .tls.clientCa.key)) -}}
{{- end -}}
{{- end -}}
{{- if has .protocol (list "ws" "wss") -}}{{- $_ := set $table "path" .path -}}{{- end -}}
{{- if .insecure -}}{{- $_ := set $table "insecure" true -}}{{- end -}}
{{- if .allowAnonymous -}}{{- $_ := set $table "allow_anonymous" true -}}{{- end -}}
{{- if ne .proxyProtocol "off" -}}
{{- $_ := set $table "proxy_protocol" .proxyProtocol -}}
{{- $_ := set $table "proxy_trusted" .proxyTrusted -}}
{{- end -}}
{{- with .tcpKeepalive -}}{{- $_ := set $table "tcp_keepalive" . -}}{{- end -}}
{{- with .tcpUserTimeout -}}{{- $_ := set $table "tcp_user_timeout" . -}}{{- end -}}
{{- include "flotilla.toml.section" $table -}}
{{- end -}}

{{/* The broker's configuration, without what differs from pod to pod: that comes by the environment. */}}
{{- define "flotilla.toml" -}}
{{- $config := deepCopy .Values.config -}}
{{- $node := mergeOverwrite (default dict $config.node) (dict "data_dir" "/var/lib/flotilla" "stop_timeout" (printf "%ds" (int .Values.drain.stopSeconds))) -}}
{{- $log := mergeOverwrite (dict "format" "json") (default dict $config.log) -}}
{{- $seed := printf "dns:%s:%d" (include "flotilla.domain" .) (int .Values.cluster.port) -}}
{{- $cluster := mergeOverwrite (default dict $config.cluster) (dict "listen" (printf "%s:%d" .Values.bindAddress (int .Values.cluster.port)) "seeds" (list $seed) "expect" .Values.replicaCount) -}}
{{- if eq .Values.cluster.tls.mode "none" -}}{{- $_ := set $cluster "insecure" true -}}{{- end -}}
{{- $sections := mergeOverwrite $config (dict "node" $node "log" $log "cluster" $cluster "admin" (dict "bind" (printf "%s:%d" .Values.bindAddress (int .Values.admin.port)))) -}}
# Made by the chart from its values. Every key: docs/configuration.md.
{{- range $section := keys $sections | sortAlpha }}

[{{ $section }}]
{{- include "flotilla.toml.section" (index $sections $section) }}
{{- end }}
{{- if ne .Values.cluster.tls.mode "none" }}

[cluster.tls]
ca = "/etc/flotilla/cluster-tls/ca.crt"
certificate = "/etc/flotilla/cluster-tls/tls.crt"
key = "/etc/flotilla/cluster-tls/tls.key"
{{- end }}
{{- range include "flotilla.listeners" . | fromJsonArray }}

[[listeners]]
{{- include "flotilla.toml.listener" (set . "address" $.Values.bindAddress) }}
{{- end }}
{{- end -}}

{{/* Of what a pod reads at start. `expect` counts at the first start only, so a change of size rolls nobody. */}}
{{- define "flotilla.configChecksum" -}}
{{- regexReplaceAll "(?m)^expect = .*$" (include "flotilla.toml" .) "" | sha256sum -}}
{{- end -}}
