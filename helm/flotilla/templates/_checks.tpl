{{/* What a schema cannot see. Each message says what to do. */}}
{{- define "flotilla.check" -}}
{{- if and .Release.IsInstall (gt (int .Values.replicaCount) 16) -}}
{{- fail "replicaCount: a cluster begins with at most 16 nodes; install with fewer and grow it afterwards" -}}
{{- end -}}
{{- if and (eq .Values.cluster.tls.mode "existing-secret") (not .Values.cluster.tls.existingSecret) -}}
{{- fail "cluster.tls.existingSecret: the mode `existing-secret` needs the name of a secret with ca.crt, tls.crt and tls.key" -}}
{{- end -}}
{{- if and .Values.cluster.tls.existingSecret (ne .Values.cluster.tls.mode "existing-secret") -}}
{{- fail "cluster.tls.existingSecret: has no meaning unless cluster.tls.mode is `existing-secret`" -}}
{{- end -}}
{{- $auth := default dict .Values.config.auth -}}
{{- if and .Values.auth.passwords.existingSecret $auth.password_file -}}
{{- fail "auth.passwords.existingSecret and config.auth.password_file exclude each other" -}}
{{- end -}}
{{- if and .Values.auth.jwt.existingSecret (not $auth.jwt_algorithms) -}}
{{- fail "auth.jwt.existingSecret: say in config.auth.jwt_algorithms how the tokens are signed, as [ES256]" -}}
{{- end -}}
{{- if and .Values.auth.serviceCa.existingSecret (not (or $auth.jwt_keys_url (and $auth.http $auth.http.url))) -}}
{{- fail "auth.serviceCa.existingSecret: has no meaning without config.auth.jwt_keys_url or config.auth.http.url" -}}
{{- end -}}
{{- $access := default dict .Values.config.access -}}
{{- if gt (len (compact (list .Values.access.rules .Values.access.existingSecret $access.rules $access.mosquitto_acl))) 1 -}}
{{- fail "access.rules, access.existingSecret, config.access.rules and config.access.mosquitto_acl exclude each other" -}}
{{- end -}}
{{- $listeners := include "flotilla.listeners" . | fromJsonArray -}}
{{- if not $listeners -}}
{{- fail "listeners: all are off, so no client could connect; enable one" -}}
{{- end -}}
{{- $ports := dict (toString .Values.admin.port) "admin.port" (toString .Values.cluster.port) "cluster.port" -}}
{{- if eq (int .Values.admin.port) (int .Values.cluster.port) -}}
{{- fail "admin.port and cluster.port are the same" -}}
{{- end -}}
{{- range $listeners -}}
{{- $path := printf "listeners.%s" .name -}}
{{- $port := toString (int .port) -}}
{{- if hasKey $ports $port -}}
{{- fail (printf "%s.port: %s is taken by %s" $path $port (get $ports $port)) -}}
{{- end -}}
{{- $_ := set $ports $port $path -}}
{{- if .encrypted -}}
{{- if and .tls.existingSecret .tls.certManager.issuerRef -}}
{{- fail (printf "%s.tls: existingSecret and certManager.issuerRef exclude each other" $path) -}}
{{- end -}}
{{- if not (or .tls.existingSecret .tls.certManager.issuerRef) -}}
{{- fail (printf "%s.tls: needs a certificate: set existingSecret to a secret with tls.crt and tls.key, or certManager.issuerRef" $path) -}}
{{- end -}}
{{- if not (or (and .tls.clientCa.existingSecret (not .tls.clientCa.optional)) .allowAnonymous .insecure (include "flotilla.knowsUsers" $)) -}}
{{- fail (printf "%s: nothing tells who connects: set tls.clientCa.existingSecret to ask for client certificates, auth.passwords.existingSecret for users, or allowAnonymous to let everybody in" $path) -}}
{{- end -}}
{{- $clientCa := .tls.clientCa -}}
{{- range $key := list "crlKey" "optional" -}}
{{- if and (get $clientCa $key) (not $clientCa.existingSecret) -}}
{{- fail (printf "%s.tls.clientCa.%s: has no meaning without existingSecret" $path $key) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if not .insecure -}}
{{- fail (printf "%s: plain text can be read by others on the network: use the protocol `tls` or `wss`, or set insecure" $path) -}}
{{- end -}}
{{- if and .external (not .service.exposePlainText) -}}
{{- fail (printf "%s.service.type: %s would show plain text to the outside; use a TLS listener, or set service.exposePlainText (as behind a load balancer that ends TLS)" $path .service.type) -}}
{{- end -}}
{{- if or .tls.existingSecret .tls.certManager.issuerRef .tls.clientCa.existingSecret -}}
{{- fail (printf "%s.tls: has no meaning for the protocol `%s`" $path .protocol) -}}
{{- end -}}
{{- end -}}
{{- if and (ne .proxyProtocol "off") (not .proxyTrusted) -}}
{{- fail (printf "%s.proxyTrusted: say whose PROXY headers are believed: the addresses of the load balancer as the pods see them, as [\"10.0.0.0/8\"]" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
