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
{{- if .tls.clientCa.optional -}}{{- $_ := set $table "client_certificate" "optional" -}}{{- end -}}
{{- with .tls.clientCa.crlKey -}}{{- $_ := set $table "client_crl" (printf "/etc/flotilla/client-ca/%s/%s" $table.name .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if has .protocol (list "ws" "wss") -}}
{{- $_ := set $table "path" .path -}}
{{- with .allowedOrigins -}}{{- $_ := set $table "allowed_origins" . -}}{{- end -}}
{{- end -}}
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

{{/* The files that say who may come in and what they may do; as JSON. */}}
{{- define "flotilla.gate" -}}
{{- $auth := dict -}}
{{- $access := dict -}}
{{- $config := default dict .Values.config.auth -}}
{{- if .Values.auth.passwords.existingSecret -}}
{{- $_ := set $auth "password_file" (printf "/etc/flotilla/auth-passwords/%s" .Values.auth.passwords.key) -}}
{{- end -}}
{{- if .Values.auth.jwt.existingSecret -}}
{{- $keys := list -}}
{{- range .Values.auth.jwt.keys -}}{{- $keys = append $keys (printf "/etc/flotilla/auth-jwt/%s" .) -}}{{- end -}}
{{- $_ := set $auth "jwt_keys" $keys -}}
{{- end -}}
{{- if .Values.auth.serviceCa.existingSecret -}}
{{- $ca := printf "/etc/flotilla/auth-service-ca/%s" .Values.auth.serviceCa.key -}}
{{- if $config.jwt_keys_url -}}{{- $_ := set $auth "jwt_keys_ca" $ca -}}{{- end -}}
{{- if and $config.http $config.http.url -}}{{- $_ := set $auth "http" (dict "ca" $ca) -}}{{- end -}}
{{- end -}}
{{- if .Values.access.rules -}}
{{- $_ := set $access "rules" "/etc/flotilla/config/rules" -}}
{{- else if .Values.access.existingSecret -}}
{{- $_ := set $access "rules" (printf "/etc/flotilla/access-rules/%s" .Values.access.key) -}}
{{- end -}}
{{- $gate := dict -}}
{{- if $auth -}}{{- $_ := set $gate "auth" $auth -}}{{- end -}}
{{- if $access -}}{{- $_ := set $gate "access" $access -}}{{- end -}}
{{- toJson $gate -}}
{{- end -}}

{{/* The secrets with files of theirs, by the name of the volume; as JSON. */}}
{{- define "flotilla.secretVolumes" -}}
{{- $volumes := dict "auth-passwords" .Values.auth.passwords.existingSecret "auth-jwt" .Values.auth.jwt.existingSecret
      "auth-service-ca" .Values.auth.serviceCa.existingSecret "access-rules" .Values.access.existingSecret
      "admin-tokens" .Values.admin.tokens.existingSecret -}}
{{- range $volume, $secret := $volumes -}}{{- if not $secret -}}{{- $_ := unset $volumes $volume -}}{{- end -}}{{- end -}}
{{- toJson $volumes -}}
{{- end -}}

{{/* Whether clients may be known by something else than a certificate; empty: no. */}}
{{- define "flotilla.knowsUsers" -}}
{{- $auth := default dict .Values.config.auth -}}
{{- $http := default dict $auth.http -}}
{{- if or .Values.auth.passwords.existingSecret .Values.auth.jwt.existingSecret $auth.password_file $auth.jwt_keys $auth.jwt_keys_url $http.url -}}
yes
{{- end -}}
{{- end -}}

{{/* The sections of the broker's configuration, by name; as JSON. */}}
{{- define "flotilla.sections" -}}
{{- $config := deepCopy .Values.config -}}
{{- $node := mergeOverwrite (default dict $config.node) (dict "data_dir" "/var/lib/flotilla" "stop_timeout" (printf "%ds" (int .Values.drain.stopSeconds))) -}}
{{- $log := mergeOverwrite (dict "format" "json") (default dict $config.log) -}}
{{- $seed := printf "dns:%s:%d" (include "flotilla.domain" .) (int .Values.cluster.port) -}}
{{- $cluster := mergeOverwrite (default dict $config.cluster) (dict "listen" (printf "%s:%d" .Values.bindAddress (int .Values.cluster.port)) "seeds" (list $seed) "expect" .Values.replicaCount) -}}
{{- if eq .Values.cluster.tls.mode "none" -}}{{- $_ := set $cluster "insecure" true -}}{{- end -}}
{{- $admin := dict "bind" (printf "%s:%d" .Values.bindAddress (int .Values.admin.port)) -}}
{{- if .Values.admin.tokens.existingSecret -}}
{{- $_ := set $admin "write_token_file" (printf "/etc/flotilla/admin-tokens/%s" .Values.admin.tokens.writeKey) -}}
{{- with .Values.admin.tokens.readKey -}}{{- $_ := set $admin "read_token_file" (printf "/etc/flotilla/admin-tokens/%s" .) -}}{{- end -}}
{{- end -}}
{{- mergeOverwrite $config (dict "node" $node "log" $log "cluster" $cluster "admin" $admin) (include "flotilla.gate" . | fromJson) | toJson -}}
{{- end -}}

{{/* What the broker reads beside the sections: certificates between nodes, and listeners. */}}
{{- define "flotilla.toml.blocks" -}}
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

{{/* The broker's configuration, without what differs from pod to pod: that comes by the environment. */}}
{{- define "flotilla.toml" -}}
# Made by the chart from its values. Every key: docs/configuration.md.
{{- $sections := include "flotilla.sections" . | fromJson }}
{{- range $section := keys $sections | sortAlpha }}

[{{ $section }}]
{{- include "flotilla.toml.section" (index $sections $section) }}
{{- end }}
{{- include "flotilla.toml.blocks" . }}
{{- end -}}

{{/* The keys that a running broker takes from its changed configuration: those marked with an arrow in docs/configuration.md. */}}
{{- define "flotilla.reloadable" -}}
drain:
  - connections_per_second
limits:
  - connections_max
  - connections_per_address_max
  - connections_per_user_max
  - publish_messages_per_second_max
  - publish_bytes_per_second_max
  - deliver_messages_per_second_max
  - deliver_bytes_per_second_max
  - connect_timeout
  - packet_size_max
  - packet_size_before_connect
  - topic_levels_max
  - topic_bytes_max
  - subscriptions_per_client_max
  - sessions_max
  - retained_messages_max
  - retained_bytes_max
  - retained_messages_per_user_max
  - retained_bytes_per_user_max
  - filters_per_packet_max
  - receive_maximum
  - in_flight_max
  - topic_alias_maximum
  - user_properties_max
  - client_id_bytes_max
  - session_expiry_max
  - will_delay_max
  - keep_alive_max
  - connects_per_second_max
queues:
  - messages_max
  - bytes_max
  - when_full
  - live_bytes_max
overload:
  - memory_max
admin:
  - read_tokens
  - write_tokens
  - read_token_file
  - write_token_file
log:
  - level
{{- end -}}

{{/* Of what a pod reads at its start alone. `expect` counts at the first start only, so a change of size rolls nobody. */}}
{{- define "flotilla.configChecksum" -}}
{{- $sections := include "flotilla.sections" . | fromJson -}}
{{- $_ := unset $sections.cluster "expect" -}}
{{- /* With `watch_files = "0s"` nobody would have it read again. */}}
{{- if not (regexMatch "^(0+[a-z]+)+$" (default "" $sections.node.watch_files)) -}}
{{- range $section, $keys := include "flotilla.reloadable" . | fromYaml -}}
{{- range $key := $keys -}}{{- $_ := unset (default dict (index $sections $section)) $key -}}{{- end -}}
{{- if not (index $sections $section) -}}{{- $_ := unset $sections $section -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- print (toJson $sections) (include "flotilla.toml.blocks" .) | sha256sum -}}
{{- end -}}
