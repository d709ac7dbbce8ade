{{- /* The name of most objects: the release's, with the chart's name in it. */}}
{{- define "tenant-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "tenant-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "tenant-operator.fullname" .) -}}
{{- end }}

{{- /* By which the operator's pod is selected: these must never change. */}}
{{- define "tenant-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Without those of Helm itself: it adds app.kubernetes.io/managed-by, and manifests/install.yaml is not Helm's. */}}
{{- define "tenant-operator.labels" -}}
{{ include "tenant-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: intelliauth
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tenant-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- /* "true" if the chart's own pod answers the webhooks. */}}
{{- define "tenant-operator.servesWebhooks" -}}
{{- if and .Values.webhook.enabled (not .Values.webhook.clientConfig.url) }}true{{ end -}}
{{- end }}

{{- /* The Secret with the webhooks' certificate, whoever made it. Each source has its own: none meets the other's. */}}
{{- define "tenant-operator.certificateSecret" -}}
{{- if eq .Values.webhook.certificate.source "secret" -}}
{{- .Values.webhook.certificate.secret.name -}}
{{- else if eq .Values.webhook.certificate.source "cert-manager" -}}
{{- include "tenant-operator.certificate" . }}-tls
{{- else -}}
{{- include "tenant-operator.certificate" . }}
{{- end -}}
{{- end }}

{{- /* The webhooks' certificate. */}}
{{- define "tenant-operator.certificate" -}}
{{- include "tenant-operator.fullname" . }}-webhook
{{- end }}

{{- /* The secret part of the webhooks' paths: given, or kept from before, or made now, and the same in all templates. */}}
{{- define "tenant-operator.webhookToken" -}}
{{- if not .Values.webhook.token -}}
{{- $kept := (lookup "v1" "Secret" .Release.Namespace (include "tenant-operator.tokenSecret" .)).data | default dict -}}
{{- if not (or $kept.token (lookup "v1" "Namespace" "" "kube-system")) -}}
{{- fail "webhook.token is made once and kept, so Helm must be able to read the cluster: use `helm install` or `helm upgrade` (with --dry-run=server for a trial). For `helm template`, Argo CD and the like set webhook.token to one of your own: openssl rand -hex 24" -}}
{{- end -}}
{{- $_ := set .Values.webhook "token" ($kept.token | default "" | b64dec | default (randAlphaNum 48 | lower)) -}}
{{- end -}}
{{- .Values.webhook.token -}}
{{- end }}

{{- define "tenant-operator.tokenSecret" -}}
{{- include "tenant-operator.certificate" . }}-token
{{- end }}

{{- /* What the operator is told of the API server's client certificate. */}}
{{- define "tenant-operator.clientAuthority" -}}
{{- include "tenant-operator.certificate" . }}-client
{{- end }}

{{- /* Who the operator is to the API server. */}}
{{- define "tenant-operator.user" -}}
{{- .Values.webhook.clientConfig.user | default (printf "system:serviceaccount:%s:%s" .Release.Namespace (include "tenant-operator.serviceAccountName" .)) -}}
{{- end }}

{{- /* The settings as environment variables. What is null is left to the operator. */}}
{{- define "tenant-operator.settings" -}}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: TENANT_OPERATOR_{{ snakecase $name | upper }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of what `helm test` makes and deletes again. */}}
{{- define "tenant-operator.testMetadata" -}}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "tenant-operator.labels" .root | nindent 2 }}
  app.kubernetes.io/component: test
annotations:
  helm.sh/hook: test
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
