{{- /*
The admission policies, by name. Rendered twice: as ValidatingAdmissionPolicies, and into the ConfigMap by which the operator
notices that one of them is missing or was changed.

`object` is null on delete and `oldObject` on create, hence the lists: a rule looks at whichever is there, so that neither
adding nor removing a mark gets around it.
*/ -}}
{{- define "graft.policies" -}}
{{- $operator := include "graft.operatorUser" . -}}
{{- $gc := "system:serviceaccount:kube-system:generic-garbage-collector" -}}
{{- $namespaces := "system:serviceaccount:kube-system:namespace-controller" -}}
{{- $jobs := "system:serviceaccount:kube-system:job-controller" -}}
{{- $replicasets := "system:serviceaccount:kube-system:replicaset-controller" -}}
{{- $ttl := "system:serviceaccount:kube-system:ttl-after-finished-controller" -}}
{{- $kueue := .Values.policies.kueue.serviceAccount -}}
{{- $kuberay := .Values.policies.kuberay.serviceAccount -}}
{{- $jobLabels := list "batch.kubernetes.io/controller-uid" "batch.kubernetes.io/job-name" "controller-uid" "job-name" -}}
graft-records:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    # Matches when the old or the new object has the label: other ConfigMaps cost nothing.
    objectSelector:
      matchExpressions:
      - key: graft.dev/record
        operator: Exists
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["configmaps"]
      scope: "*"
  validations:
  - expression: >-
      request.userInfo.username in {{ toJson (concat (list $operator) .Values.policies.recordWriters) }} ||
      (request.operation != 'CREATE' && request.userInfo.username in {{ toJson (list $gc $namespaces) }})
    message: >-
      ConfigMaps with the label graft.dev/record (values manifest, ca, routes, ledger) are written by the graft operator alone
    reason: Forbidden
graft-pods:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE"]
      resources: ["pods", "pods/ephemeralcontainers"]
      scope: "*"
  matchConditions:
  # The operator reads pods that have labels of graft and a Job of graft as controller (finetunejob/observe.py), and listens to pods
  # that hold a token of graft (reports/identity.py). So the labels and the token are what must not be forged, on a new pod or on one
  # that exists. That a pod names a Job as controller, or has its labels, is no mark: whether that Job is ours cannot be seen from
  # here (its uid says nothing, and others have Jobs named x-train-1a2b3c4d, too), and to refuse it for all Jobs would break who
  # copies pods with all they have, such as vcluster, Liqo and restored backups. A pod that claims our Job without a label of ours
  # may be counted by the Job controller and so end a run, as deleting the FineTuneJob does; what it says is not read.
  - name: is-a-pod-of-graft
    expression: >-
      [object, oldObject].exists(o, o != null && ({{ include "graft.labelled" "o" }} || {{ include "graft.speaks" "o.spec" }}))
  validations:
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username in {{ toJson (compact (list $jobs $replicasets $kuberay)) }}
    message: >-
      pods with a service account graft-*, a label graft.dev/* or a token for graft.dev are created by the Job, ReplicaSet and
      KubeRay controllers alone: create a FineTuneJob instead
    reason: Forbidden
  # A Job adopts orphans that carry its labels: templates of ReplicaSets and RayClusters must not be a way to bring it some.
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username == '{{ $jobs }}' ||
      (!object.?metadata.?labels.orValue({}).exists(l, l in {{ toJson $jobLabels }}) &&
      !object.?metadata.?ownerReferences.orValue([]).exists(r, r.kind == 'Job'))
    message: a pod of graft that does not come from a Job must not carry the labels of a Job or have one as owner
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || 'system:nodes' in request.userInfo.groups ||
      request.userInfo.username in {{ toJson (compact (list $jobs $replicasets $gc $namespaces $kueue $kuberay)) }} ||
      (object.spec == oldObject.spec &&
      object.?metadata.?labels.orValue({}) == oldObject.?metadata.?labels.orValue({}) &&
      object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))
    message: >-
      containers, ephemeral containers, labels and owners of pods of graft do not change: change the FineTuneJob and start it again
    reason: Forbidden
graft-tokens:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["v1"]
      operations: ["CREATE"]
      resources: ["serviceaccounts/token"]
      scope: "*"
  matchConditions:
  - name: is-for-graft
    expression: object.?spec.?audiences.orValue([]).exists(a, a == 'graft.dev')
  validations:
  - expression: "'system:nodes' in request.userInfo.groups"
    message: tokens for audience graft.dev are requested by nodes alone, for the pods that run on them
    reason: Forbidden
graft-jobs:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["batch"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["jobs"]
      scope: "*"
  matchConditions:
  - name: is-a-job-of-graft
    expression: >-
      [object, oldObject].exists(o, o != null && ({{ include "graft.labelled" "o" }} ||
      {{ include "graft.labelled" "o.spec.template" }} || {{ include "graft.speaks" "o.spec.template.spec" }} ||
      o.?metadata.?ownerReferences.orValue([]).exists(r, r.kind == 'FineTuneJob' && r.apiVersion.startsWith('graft.dev/'))))
  validations:
  - expression: request.operation != 'CREATE' || request.userInfo.username == '{{ $operator }}'
    message: >-
      Jobs with a label graft.dev/*, a service account graft-*, a token for graft.dev or a FineTuneJob as owner are created by the
      graft operator alone: create a FineTuneJob instead
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || request.userInfo.username in {{ toJson (compact (list $operator $jobs $gc $ttl $kueue)) }}
    message: >-
      Jobs of graft are changed by the graft operator, the Job controller and Kueue alone: change the FineTuneJob instead, to pause
      it set spec.suspend
    reason: Forbidden
  - expression: >-
      request.operation != 'DELETE' || request.userInfo.username in
      {{ toJson (compact (list $operator $jobs $gc $namespaces $ttl $kueue)) }}
    message: >-
      Jobs of graft are deleted by the graft operator and by Kubernetes itself alone: delete the FineTuneJob, or set its spec.suspend
    reason: Forbidden
{{- end }}

{{- /* Whether this object or pod template has a label of graft: any, so that a label that graft reads one day is protected today. */ -}}
{{- define "graft.labelled" -}}
{{ . }}.?metadata.?labels.orValue({}).exists(l, l.startsWith('graft.dev/'))
{{- end }}

{{- /* Whether pods of this pod spec use a service account of graft or can get a token for its audience. */ -}}
{{- define "graft.speaks" -}}
{{- /* One line: it is put into folded scalars. */ -}}
{{ . }}.?serviceAccountName.orValue('').startsWith('graft-') || {{ . }}.?volumes.orValue([]).exists(v, {{/**/ -}}
v.?projected.?sources.orValue([]).exists(s, s.?serviceAccountToken.?audience.orValue('') == 'graft.dev'))
{{- end }}
