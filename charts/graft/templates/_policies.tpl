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
{{- $deployments := "system:serviceaccount:kube-system:deployment-controller" -}}
{{- $ttl := "system:serviceaccount:kube-system:ttl-after-finished-controller" -}}
{{- $endpoints := list "endpoint-controller" "endpointslice-controller" "endpointslicemirroring-controller" -}}
{{- $addresses := list -}}
{{- range $endpoints }}{{ $addresses = append $addresses (printf "system:serviceaccount:kube-system:%s" .) }}{{ end -}}
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
      # Kubernetes takes labels also from what is sent as a status.
      resources: ["pods", "pods/ephemeralcontainers", "pods/status"]
      scope: "*"
  matchConditions:
  # The operator reads pods that have labels of graft and a Job of graft as controller (finetunejob/observe.py), and listens to pods
  # that hold a token of graft (reports/identity.py); gateways send requests to pods that are labelled as servers. So the labels and the token are what must not be forged, on a new pod or on one
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
      KubeRay controllers alone: create a FineTuneJob or a ModelEndpoint instead
    reason: Forbidden
  # A Job adopts orphans that carry its labels: templates of ReplicaSets and RayClusters must not be a way to bring it some.
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username == '{{ $jobs }}' ||
      (!object.?metadata.?labels.orValue({}).exists(l, l in {{ toJson $jobLabels }}) &&
      !object.?metadata.?ownerReferences.orValue([]).exists(r, r.kind == 'Job'))
    message: a pod of graft that does not come from a Job must not carry the labels of a Job or have one as owner
    reason: Forbidden
  # Nor may a RayCluster or a FineTuneJob bring pods that a gateway would send requests to, that a door or the operator would listen
  # to, or that a ReplicaSet would adopt.
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username == '{{ $replicasets }}' ||
      !(object.?metadata.?labels.orValue({}).exists(l, l in ['graft.dev/modelendpoint', 'pod-template-hash']) ||
      object.spec.?serviceAccountName.orValue('').matches('^graft-(server|gateway)-') || {{ include "graft.knocks" "object.spec" }})
    message: >-
      pods with the label graft.dev/modelendpoint or pod-template-hash, a service account graft-server-* or graft-gateway-* or a token
      for graft.dev/door/* come from a ReplicaSet alone
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || 'system:nodes' in request.userInfo.groups ||
      request.userInfo.username in {{ toJson (compact (list $jobs $replicasets $gc $namespaces $kueue $kuberay)) }} ||
      (object.spec == oldObject.spec &&
      object.?metadata.?labels.orValue({}) == oldObject.?metadata.?labels.orValue({}) &&
      object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))
    message: >-
      containers, ephemeral containers, labels and owners of pods of graft do not change: change the FineTuneJob and start it again, or
      change the ModelEndpoint
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
    expression: object.?spec.?audiences.orValue([]).exists(a, a == 'graft.dev' || a.startsWith('graft.dev/'))
  validations:
  - expression: "'system:nodes' in request.userInfo.groups"
    message: tokens for audience graft.dev or graft.dev/* are requested by nodes alone, for the pods that run on them
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
      resources: ["jobs", "jobs/status"]
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
graft-deployments:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["apps"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["deployments", "deployments/status"]
      scope: "*"
  matchConditions:
  # Helm installs the operator there. Whoever may create Deployments beside it can be the operator, with or without this policy.
  - name: is-not-beside-the-operator
    expression: request.namespace != '{{ .Release.Namespace }}'
  - name: is-a-deployment-of-graft
    expression: >-
      [object, oldObject].exists(o, o != null && ({{ include "graft.brings" "o" }} || {{ include "graft.served" "o" }}))
  variables:
  # A vLLM of somebody's own with agent and door in its pods (`graft inject`): it may speak and be labelled as a server, and that is
  # all. The operator listens to it as a server of the endpoint that its pods are labelled with, for which its author must hold
  # `inject`, if that endpoint's spec.server.existing names it.
  - name: own
    expression: >-
      [object, oldObject].all(o, o == null || (!({{ include "graft.served" "o" }}) &&
      !o.spec.template.spec.?serviceAccountName.orValue('').startsWith('graft-') &&
      [o.?metadata.?labels.orValue({}), o.spec.template.?metadata.?labels.orValue({})].all(labels,
      labels.all(l, !l.startsWith('graft.dev/') || l == 'graft.dev/modelendpoint' ||
      (l == 'graft.dev/component' && labels[l] == 'server')))))
  - name: mayInject
    expression: >-
      variables.own && object != null && authorizer.group('graft.dev').resource('modelendpoints').namespace(request.namespace).name(
      object.spec.template.?metadata.?labels.orValue({})[?'graft.dev/modelendpoint'].orValue('')).check('inject').allowed()
  validations:
  - expression: request.operation != 'CREATE' || request.userInfo.username == '{{ $operator }}' || variables.mayInject
    message: >-
      Deployments with a label graft.dev/*, a service account graft-*, a token for graft.dev or a ModelEndpoint as owner are created by
      the graft operator alone: create a ModelEndpoint instead. For a vLLM of your own into whose pods you inject graft's agent you
      need the verb inject on modelendpoints (ClusterRole graft-serving-admin) and a service account that is not graft-*
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || request.userInfo.username in {{ toJson (list $operator $deployments $gc) }} ||
      variables.mayInject || {{ include "graft.counted" . }}
    message: >-
      Deployments of graft are changed by the graft operator alone: change the ModelEndpoint instead, and to restart its pods change
      its annotation graft.dev/upgrade. For a vLLM of your own you need the verb inject on modelendpoints (ClusterRole
      graft-serving-admin)
    reason: Forbidden
  # What an endpoint left behind, and what is somebody's own, may go: that forges nothing.
  - expression: >-
      request.operation != 'DELETE' || request.userInfo.username in {{ toJson (list $operator $gc $namespaces) }} ||
      !({{ include "graft.served" "oldObject" }})
    message: Deployments of a ModelEndpoint are deleted by the graft operator and by Kubernetes itself alone; delete the ModelEndpoint
    reason: Forbidden
graft-replicasets:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["apps"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["replicasets", "replicasets/status"]
      scope: "*"
  matchConditions:
  - name: is-a-replicaset-of-graft
    expression: "[object, oldObject].exists(o, o != null && ({{ include "graft.brings" "o" }}))"
  validations:
  # Whoever could make one could name a Deployment of graft as its controller, and its pods would speak for that.
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username == '{{ $deployments }}'
    message: >-
      ReplicaSets with a label graft.dev/*, a service account graft-* or a token for graft.dev are created by the Deployment controller
      alone: create a ModelEndpoint instead
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || request.userInfo.username in {{ toJson (list $deployments $gc) }} || {{ include "graft.counted" . }}
    message: "ReplicaSets of graft are changed by the Deployment controller alone: change the ModelEndpoint instead"
    reason: Forbidden
  - expression: >-
      request.operation != 'DELETE' || request.userInfo.username in {{ toJson (list $deployments $gc $namespaces) }} ||
      !oldObject.?metadata.?ownerReferences.orValue([]).exists(r, r.?controller.orValue(false))
    message: ReplicaSets of graft are deleted by Kubernetes itself alone
    reason: Forbidden
graft-scale:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["apps"]
      apiVersions: ["v1"]
      operations: ["UPDATE"]
      resources: ["deployments/scale", "replicasets/scale"]
      scope: "*"
  matchConditions:
  # A Scale has no labels, but the selector of what is scaled. A vLLM of somebody's own has another one, and is theirs to scale.
  - name: is-of-graft
    expression: oldObject.?status.?selector.orValue('').contains('graft.dev/')
  validations:
  - expression: request.userInfo.username == '{{ $operator }}'
    message: >-
      the pods of a ModelEndpoint are scaled by kubectl scale modelendpoint, by its spec, or by an autoscaler whose target is the
      ModelEndpoint
    reason: Forbidden
graft-services:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["services", "services/status", "endpoints"]
      scope: "*"
    - apiGroups: ["discovery.k8s.io"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["endpointslices"]
      scope: "*"
  matchConditions:
  # Slices and Endpoints have the labels of their Service. A slice without them that names a Service of graft cannot be told from
  # others here, and others' Services may be named x-server and x-gateway, too: so gateways list slices by both (gateway/discovery.py).
  - name: is-of-graft
    expression: "[object, oldObject].exists(o, o != null && {{ include "graft.labelled" "o" }})"
  validations:
  # Annotations, finalizers and status are left to whoever has the right: load balancers and DNS write them, and no request
  # inside the cluster goes elsewhere for it.
  - expression: >-
      request.resource.resource != 'services' || request.userInfo.username == '{{ $operator }}' ||
      (request.operation != 'CREATE' && request.userInfo.username in {{ toJson (list $gc $namespaces) }}) ||
      (request.operation == 'UPDATE' && dyn(object).spec == dyn(oldObject).spec &&
      object.?metadata.?labels.orValue({}) == oldObject.?metadata.?labels.orValue({}) &&
      object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))
    message: >-
      Services with a label graft.dev/* are created, changed and deleted by the graft operator alone: change the ModelEndpoint, or
      create a Service of your own without such a label
    reason: Forbidden
  - expression: >-
      request.resource.resource == 'services' || request.userInfo.username in {{ toJson $addresses }} ||
      (request.operation != 'CREATE' && request.userInfo.username in {{ toJson (list $gc $namespaces) }})
    message: EndpointSlices and Endpoints with a label graft.dev/* are written by the controllers of Kubernetes alone
    reason: Forbidden
# What RBAC cannot say: rights on kinds whose names are not known beforehand end at what is marked as graft's. So an operator that was
# taken over, or is wrong, changes no object of a user.
graft-operator-writes:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["configmaps", "services", "serviceaccounts"]
      scope: "*"
    - apiGroups: ["apps"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["deployments"]
      scope: "*"
    - apiGroups: ["policy"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["poddisruptionbudgets"]
      scope: "*"
    - apiGroups: ["networking.k8s.io"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["networkpolicies"]
      scope: "*"
    - apiGroups: ["rbac.authorization.k8s.io"]
      apiVersions: ["v1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["roles", "rolebindings"]
      scope: "*"
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["UPDATE", "DELETE"]
      resources: ["adapters"]
      scope: "*"
  matchConditions:
  - name: is-the-operator
    expression: request.userInfo.username == '{{ $operator }}'
  validations:
  - expression: >-
      request.resource.resource in ['adapters', 'serviceaccounts', 'configmaps'] ||
      [object, oldObject].all(o, o == null || {{ include "graft.labelled" "o" }})
    message: the graft operator writes Services, Deployments, Roles and the like only with a label graft.dev/*
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'configmaps' ||
      [object, oldObject].all(o, o == null || 'graft.dev/record' in o.?metadata.?labels.orValue({}))
    message: the graft operator writes ConfigMaps only with the label graft.dev/record
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'serviceaccounts' || [object, oldObject].all(o, o == null ||
      (o.metadata.name.startsWith('graft-') && o.metadata.name != '{{ .Values.serviceAccount.name }}'))
    message: the graft operator writes service accounts only with a name graft-*, and not its own
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'adapters' || (object != null && dyn(object).spec == dyn(oldObject).spec)
    message: the graft operator changes finalizers and status of Adapters, never what they are
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'roles' || object == null || dyn(object).?rules.orValue([]).all(r,
      r.verbs.all(v, v in ['get', 'list', 'watch']) && ((r.resources == ['configmaps'] && r.?resourceNames.orValue([]).size() > 0) ||
      r.resources == ['endpointslices']))
    message: the graft operator grants no more than to read named ConfigMaps, and EndpointSlices
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'rolebindings' || object == null || (dyn(object).roleRef.kind == 'Role' &&
      dyn(object).?subjects.orValue([]).all(s, s.kind == 'ServiceAccount' && s.?namespace.orValue('') == request.namespace))
    message: the graft operator binds Roles, to service accounts of the same namespace
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
v.?projected.?sources.orValue([]).exists(s, [s.?serviceAccountToken.?audience.orValue('')].exists(a, {{/**/ -}}
a == 'graft.dev' || a.startsWith('graft.dev/'))))
{{- end }}

{{- /* Whether pods of this pod spec can get a token for a door. */ -}}
{{- define "graft.knocks" -}}
{{ . }}.?volumes.orValue([]).exists(v, v.?projected.?sources.orValue([]).exists(s, {{/**/ -}}
s.?serviceAccountToken.?audience.orValue('').startsWith('graft.dev/')))
{{- end }}

{{- /* Whether this Deployment or ReplicaSet is labelled as graft's, or brings pods that are pods of graft. */ -}}
{{- define "graft.brings" -}}
{{ include "graft.labelled" . }} || {{ include "graft.labelled" (printf "%s.spec.template" .) }} || {{/**/ -}}
{{ include "graft.speaks" (printf "%s.spec.template.spec" .) }}
{{- end }}

{{- /* Whether no more than the status is written: owners and labels can be changed through the status, too. */ -}}
{{- define "graft.counted" -}}
(request.?subResource.orValue('') == 'status' && {{/**/ -}}
object.?metadata.?labels.orValue({}) == oldObject.?metadata.?labels.orValue({}) && {{/**/ -}}
object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))
{{- end }}

{{- /* Whether a ModelEndpoint owns this object. */ -}}
{{- define "graft.served" -}}
{{ . }}.?metadata.?ownerReferences.orValue([]).exists(r, r.kind == 'ModelEndpoint' && r.apiVersion.startsWith('graft.dev/'))
{{- end }}
