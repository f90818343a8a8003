{{- define "flotilla.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of objects. 40 characters leave room for what is put behind, pods' ordinals and hashes included. */}}
{{- define "flotilla.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "flotilla.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.headless" -}}{{ include "flotilla.fullname" . }}-headless{{- end -}}

{{/* Where pods find each other: POD.DOMAIN. */}}
{{- define "flotilla.domain" -}}
{{ include "flotilla.headless" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* What selects pods never changes: no version in it. Claims carry these labels alone, since they cannot be changed. */}}
{{- define "flotilla.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flotilla.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object: the common ones and its own (a list of context and own). */}}
{{- define "flotilla.annotations" -}}
{{- $all := merge (dict) (index . 1) (index . 0).Values.commonAnnotations -}}
{{- with $all }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "flotilla.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "flotilla.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The listeners that are on, in the order of their names, with every default filled in; as JSON. */}}
{{- define "flotilla.listeners" -}}
{{- $all := list -}}
{{- range $name := keys .Values.listeners | sortAlpha -}}
{{- $given := index $.Values.listeners $name -}}
{{- $base := dict "name" $name "enabled" true "insecure" false "allowAnonymous" false "path" "/mqtt" "allowedOrigins" list
      "proxyProtocol" "off" "proxyTrusted" list "tcpKeepalive" "" "tcpUserTimeout" "" "allowFrom" list -}}
{{- $service := dict "enabled" true "type" "ClusterIP" "exposePlainText" false "annotations" dict "labels" dict -}}
{{- $tls := dict "existingSecret" "" "certManager" dict "clientCa" dict -}}
{{- $listener := mergeOverwrite $base (deepCopy $given) -}}
{{- $_ := set $listener "service" (mergeOverwrite $service (default dict $given.service | deepCopy)) -}}
{{- $_ := set $listener "tls" (mergeOverwrite $tls (default dict $given.tls | deepCopy)) -}}
{{- $_ := set $listener "encrypted" (has $listener.protocol (list "tls" "wss")) -}}
{{- $_ := set $listener "external" (and $listener.service.enabled (ne $listener.service.type "ClusterIP")) -}}
{{- if $listener.enabled -}}
{{- $all = append $all $listener -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* The secret with a listener's certificate (a list of context and listener). */}}
{{- define "flotilla.listenerSecret" -}}
{{- $listener := index . 1 -}}
{{- if $listener.tls.existingSecret -}}
{{ $listener.tls.existingSecret }}
{{- else -}}
{{ include "flotilla.fullname" (index . 0) }}-{{ $listener.name }}-tls
{{- end -}}
{{- end -}}

{{- define "flotilla.clusterSecret" -}}
{{- if eq .Values.cluster.tls.mode "existing-secret" -}}
{{ .Values.cluster.tls.existingSecret }}
{{- else -}}
{{ include "flotilla.fullname" . }}-cluster-tls
{{- end -}}
{{- end -}}

{{/* Copies of a shard, or all nodes while there are fewer. */}}
{{- define "flotilla.replicationFactor" -}}
{{- $cluster := default dict .Values.config.cluster -}}
{{- min (int .Values.replicaCount) (int (default 3 $cluster.replication_factor)) -}}
{{- end -}}

{{/* Pods that may be away at once while every shard, and the group that keeps the cluster's state, still has a majority. */}}
{{- define "flotilla.maxUnavailable" -}}
{{- $cluster := default dict .Values.config.cluster -}}
{{- $voters := min (int .Values.replicaCount) (int (default 5 $cluster.meta_voters_max)) -}}
{{- div (sub (min $voters (int (include "flotilla.replicationFactor" .))) 1) 2 -}}
{{- end -}}

{{/* Removal from load balancers, the stop itself, and 20 s for the rest. */}}
{{- define "flotilla.gracePeriod" -}}
{{- $needed := add (int .Values.drain.loadBalancerSeconds) (int .Values.drain.stopSeconds) 20 -}}
{{- $given := .Values.drain.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- $needed -}}
{{- else if lt (int64 $given) $needed -}}
{{- fail (printf "drain.terminationGracePeriodSeconds: %d is less than the %d that drain.loadBalancerSeconds, drain.stopSeconds and 20 s of margin add up to: the node would be killed while it stops" (int64 $given) $needed) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.testLimits" -}}
resources:
  requests:
    cpu: 50m
    memory: 64Mi
  limits:
    memory: 256Mi
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end -}}
