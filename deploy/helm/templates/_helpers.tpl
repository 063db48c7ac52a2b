{{/* As in deploy/sidecar-pod.yaml, where each capability is explained. */}}
{{- define "kernelseal.securityContext" -}}
runAsUser: 0
readOnlyRootFilesystem: true
appArmorProfile: {type: Unconfined}
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN, SYS_PTRACE, SYS_CHROOT, DAC_OVERRIDE, CHOWN, KILL, IPC_LOCK, SYS_RESOURCE]
{{- end }}

{{- define "kernelseal.webhookSecret" -}}
{{ .Values.webhook.existingSecret | default "kernelseal-webhook" }}
{{- end }}
