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
      ConfigMaps with the label graft.dev/record (values manifest, ca, routes, ledger, launches, collector, evidence) are written by the graft operator alone
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
  # Nor may a RayCluster or a FineTuneJob bring pods that a gateway would send requests to, or tell of them, that a door, a collector or
  # the operator would listen to, or that a ReplicaSet would adopt. What measures drift comes from a Job, whose component the operator
  # sets: of a FineTuneJob it is another one, whatever labels its author asks for.
  - expression: >-
      request.operation != 'CREATE' || request.userInfo.username == '{{ $replicasets }}' ||
      (request.userInfo.username == '{{ $jobs }}' && object.?metadata.?labels[?'graft.dev/component'].orValue('') == 'drift' &&
      !object.?metadata.?labels.orValue({}).exists(l, l == 'pod-template-hash') &&
      !object.spec.?serviceAccountName.orValue('').matches('^graft-(server|gateway|collector)-')) ||
      !(object.?metadata.?labels.orValue({}).exists(l, l in ['graft.dev/modelendpoint', 'pod-template-hash']) ||
      object.?metadata.?labels[?'graft.dev/component'].orValue('') in ['server', 'gateway', 'collector', 'drift'] ||
      object.spec.?serviceAccountName.orValue('').matches('^graft-(server|gateway|collector|drift)-') ||
      {{ include "graft.knocks" "object.spec" }})
    message: >-
      pods with the label graft.dev/modelendpoint or pod-template-hash, labelled as a server, gateway or collector, with a service account
      graft-server-*, graft-gateway-* or graft-collector-*, or with a token for graft.dev/* come from a ReplicaSet alone, or measure drift
      (component drift, service account graft-drift-*) and come from a Job
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
      o.?metadata.?ownerReferences.orValue([]).exists(r, r.kind in ['FineTuneJob', 'ModelEndpoint'] &&
      r.apiVersion.startsWith('graft.dev/'))))
  validations:
  - expression: request.operation != 'CREATE' || request.userInfo.username == '{{ $operator }}'
    message: >-
      Jobs with a label graft.dev/*, a service account graft-*, a token for graft.dev, or a FineTuneJob or ModelEndpoint as owner are
      created by the graft operator alone: create a FineTuneJob instead
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
      Jobs of graft are deleted by the graft operator and by Kubernetes itself alone: delete the FineTuneJob, or set its spec.suspend;
      what measures drift goes with its candidate
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
      !({{ include "graft.knocks" "o.spec.template.spec" }}) &&
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
# What a ShadowTest compares must not be replaced under it, and whoever could make such an endpoint could have its servers hold what no
# ledger says, for whoever's collector it names.
graft-shadows:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["modelendpoints", "modelendpoints/scale"]
      scope: "*"
  matchConditions:
  # A Scale has no labels and no spec of the endpoint, but its selector.
  - name: is-of-a-shadowtest
    expression: >-
      [object, oldObject].exists(o, o != null && ('graft.dev/shadowtest' in o.?metadata.?labels.orValue({}) ||
      dyn(o).?spec.?shadow.hasValue() || (request.?subResource.orValue('') == 'scale' &&
      dyn(o).?status.?selector.orValue('').contains('graft.dev/shadow-of='))))
  validations:
  # One that nothing owns any more was left behind; whoever has the right may tidy up.
  - expression: >-
      request.userInfo.username == '{{ $operator }}' ||
      (request.operation != 'CREATE' && request.userInfo.username in {{ toJson (list $gc $namespaces) }}) ||
      (request.operation == 'DELETE' && !oldObject.?metadata.?ownerReferences.orValue([]).exists(r, r.?controller.orValue(false)))
    message: >-
      ModelEndpoints with the label graft.dev/shadowtest or with spec.shadow are created, changed, scaled and deleted by the graft
      operator alone: create a ShadowTest, or delete it
    reason: Forbidden
# A program that a scorer names runs in the collector's container, beside the tokens and the store's keys that verdicts rest on: whoever
# names one can say what a ShadowTest finds. To start a job, which runs programs beside its own files alone, is another matter.
graft-commands:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE"]
      resources: ["shadowtests", "modelendpoints"]
      scope: "*"
  matchConditions:
  - name: names-a-program
    expression: >-
      dyn(object).?spec.?metrics.orValue([]).exists(m, m.?scorer.?command.hasValue()) ||
      dyn(object).?spec.?domains.orValue([]).exists(d, {{ include "graft.programmed" "d" }}) ||
      dyn(object).?spec.?collector.?observe.orValue([]).exists(d, d.?scores.orValue([]).exists(s, s.?scorer.?command.hasValue())) ||
      dyn(object).?spec.?collector.?image.hasValue()
  validations:
  # What somebody with the verb has written stays in an endpoint that others scale or label. Of a policy for promotion the operator makes
  # ShadowTests by itself, so its programs are asked for here.
  - expression: >-
      request.userInfo.username == '{{ $operator }}' || (request.operation == 'UPDATE' &&
      dyn(object).?spec.?metrics.orValue([]) == dyn(oldObject).?spec.?metrics.orValue([]) &&
      dyn(object).?spec.?domains.orValue([]).all(d, !({{ include "graft.programmed" "d" }}) ||
      dyn(oldObject).?spec.?domains.orValue([]).exists(o, o.name == d.name &&
      o.?promotion.?shadow.?metrics.orValue([]) == d.?promotion.?shadow.?metrics.orValue([]))) &&
      dyn(object).?spec.?collector.?observe.orValue([]) == dyn(oldObject).?spec.?collector.?observe.orValue([]) &&
      dyn(object).?spec.?collector.?image.orValue('') == dyn(oldObject).?spec.?collector.?image.orValue('')) ||
      authorizer.group('graft.dev').resource(request.resource.resource).namespace(request.namespace).name(
      object.metadata.?name.orValue('')).check('command').allowed()
    message: >-
      a program (scorer.command, collector.image) runs beside the collector's tokens and the keys of its store: for a ShadowTest or
      ModelEndpoint with one you need the verb command on shadowtests or modelendpoints (ClusterRole graft-serving-admin), or use another scorer
    reason: Forbidden
# Somebody's word counts because nobody else can say it, and nobody else can unsay it: neither by a deletion nor by an owner that is
# deleted in its place.
graft-approvals:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["adapterapprovals", "adapterapprovals/*"]
      scope: "*"
  variables:
  - name: author
    expression: >-
      request.userInfo.username == (oldObject == null ? dyn(object) : dyn(oldObject)).spec.author.username
  validations:
  - expression: request.operation != 'CREATE' || variables.author
    message: >-
      an approval is written in its author's own name: spec.author.username must be who asks, which kubectl auth whoami says; kubectl
      graft approve fills it in
    reason: Forbidden
  - expression: >-
      request.operation != 'CREATE' || dyn(object).spec.author.?groups.orValue([]).all(g, g in request.userInfo.?groups.orValue([]))
    message: >-
      spec.author.groups holds a group that its author is not in: kubectl auth whoami says in which they are; kubectl graft approve fills
      them in
    reason: Forbidden
  - expression: request.operation != 'UPDATE' || dyn(object).spec == dyn(oldObject).spec
    message: an approval is immutable; its author may delete it and write another one
    reason: Forbidden
  # What changes nothing, as a migration of what is stored does, is nobody's word.
  - expression: >-
      request.operation != 'UPDATE' || variables.author || request.userInfo.username == '{{ $gc }}' ||
      (object.?metadata.?labels.orValue({}) == oldObject.?metadata.?labels.orValue({}) &&
      object.?metadata.?annotations.orValue({}) == oldObject.?metadata.?annotations.orValue({}) &&
      object.?metadata.?finalizers.orValue([]) == oldObject.?metadata.?finalizers.orValue([]) &&
      object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))
    message: labels, annotations, finalizers and owners of an approval are changed by its author alone
    reason: Forbidden
  - expression: >-
      request.operation != 'DELETE' || variables.author || request.userInfo.username in {{ toJson (list $gc $namespaces) }}
    message: an approval is withdrawn by its author alone; whoever is of another mind writes one of their own
    reason: Forbidden
# By what adapters come into production: who may train and serve does not decide who must agree to it.
graft-promotion:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["modelendpoints"]
      scope: "*"
  matchConditions:
  - name: has-a-policy
    expression: >-
      [object, oldObject].exists(o, o != null && dyn(o).?spec.?domains.orValue([]).exists(d, d.?promotion.hasValue()))
  variables:
  - name: before
    expression: "oldObject == null ? [] : dyn(oldObject).?spec.?domains.orValue([])"
  - name: after
    expression: "object == null ? [] : dyn(object).?spec.?domains.orValue([])"
  - name: may
    expression: >-
      authorizer.group('graft.dev').resource('modelendpoints').namespace(request.namespace).name(
      (object == null ? dyn(oldObject) : dyn(object)).metadata.?name.orValue('')).check('setpolicy').allowed()
  validations:
  - expression: >-
      request.operation == 'DELETE' || variables.may ||
      (variables.after.all(d, !d.?promotion.hasValue() ||
      variables.before.exists(o, o.name == d.name && o.?promotion.hasValue() && o.promotion == d.promotion)) &&
      variables.before.all(o, !o.?promotion.hasValue() || variables.after.exists(d, d.name == o.name && d.?promotion.hasValue())))
    message: >-
      spec.domains[].promotion says who must agree before an adapter serves: to set, change or remove it, or its domain, you need the verb
      setpolicy on the ModelEndpoint (ClusterRole graft-policy-admin)
    reason: Forbidden
  # The base model and no pin at all are always open: they take an adapter out.
  - expression: >-
      request.operation == 'DELETE' || variables.may ||
      variables.after.all(d, !d.?promotion.hasValue() || !d.?pin.?adapter.hasValue() ||
      variables.before.exists(o, o.name == d.name && o.?pin.?adapter.orValue('') == d.pin.adapter))
    message: >-
      a domain with a promotion policy is pinned to an adapter by who may set that policy, for a pin asks nobody: you need the verb
      setpolicy on the ModelEndpoint (ClusterRole graft-policy-admin); to take an adapter out, pin base, or kubectl graft rollback
    reason: Forbidden
  # What scores mean, and what reaches them: a test and a watch are worth what they measure.
  - expression: >-
      request.operation != 'UPDATE' || variables.may || !variables.before.exists(o, o.?promotion.hasValue()) ||
      (dyn(object).spec.?collector.?store.orValue('') == dyn(oldObject).spec.?collector.?store.orValue('') &&
      dyn(object).spec.?collector.?credentials.orValue({}) == dyn(oldObject).spec.?collector.?credentials.orValue({}) &&
      dyn(object).spec.?collector.?env.orValue([]) == dyn(oldObject).spec.?collector.?env.orValue([]) &&
      dyn(object).spec.?collector.?image.orValue('') == dyn(oldObject).spec.?collector.?image.orValue('') &&
      variables.before.all(o, !o.?promotion.hasValue() ||
      dyn(object).spec.?collector.?observe.orValue([]).filter(s, s.domain == o.name) ==
      dyn(oldObject).spec.?collector.?observe.orValue([]).filter(s, s.domain == o.name)))
    message: >-
      what promotion is decided by is measured with spec.collector.observe of its domain, store, credentials, env and image of the collector:
      to change them beside a promotion policy you need the verb setpolicy on the ModelEndpoint (ClusterRole graft-policy-admin)
    reason: Forbidden
  # Else the policy goes with the endpoint, which comes again without: by a deletion, or by an owner that is deleted in its place.
  - expression: >-
      variables.may || request.userInfo.username in {{ toJson (list $gc $namespaces) }} ||
      (request.operation != 'DELETE' && object.?metadata.?ownerReferences.orValue([]) ==
      (oldObject == null ? [] : oldObject.?metadata.?ownerReferences.orValue([])))
    message: >-
      a ModelEndpoint with a promotion policy is deleted, or given an owner, by who may set that policy: you need the verb setpolicy on it
      (ClusterRole graft-policy-admin)
    reason: Forbidden
# A verdict is read from the test that the operator made. Readers know it by the uid of its controller alone, whatever kind that claims
# to be, so that nobody else's has one.
graft-tests:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE"]
      resources: ["shadowtests", "shadowtests/status"]
      scope: "*"
  matchConditions:
  - name: has-a-controller
    expression: >-
      [object, oldObject].exists(o, o != null && o.?metadata.?ownerReferences.orValue([]).exists(r, r.?controller.orValue(false)))
  validations:
  - expression: request.operation != 'CREATE' || request.userInfo.username == '{{ $operator }}'
    message: >-
      a ShadowTest with a controller is one that promotion is decided by, and is created by the graft operator alone: leave
      metadata.ownerReferences[].controller out, and it informs
    reason: Forbidden
  - expression: >-
      request.operation != 'UPDATE' || request.userInfo.username in {{ toJson (list $operator $gc) }} ||
      object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([])
    message: owners of a ShadowTest that promotion is decided by do not change, and no other test becomes one
    reason: Forbidden
# What is shown of an object, and what the operator itself goes on from: verdicts, claims and what was resolved.
graft-status:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE"]
      resources: ["finetunejobs/status", "modelendpoints/status", "adapters/status", "shadowtests/status", "tuningpolicies/status"]
      scope: "*"
  validations:
  - expression: request.userInfo.username in {{ toJson (concat (list $operator) .Values.policies.recordWriters) }}
    message: >-
      the status of FineTuneJobs, ModelEndpoints, Adapters, ShadowTests and TuningPolicies is the graft operator's word, and it writes it
      alone
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
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["modelendpoints", "shadowtests"]
      scope: "*"
    - apiGroups: ["graft.dev"]
      apiVersions: ["v1alpha1"]
      operations: ["CREATE", "UPDATE", "DELETE"]
      resources: ["finetunejobs"]
      scope: "*"
  matchConditions:
  - name: is-the-operator
    expression: request.userInfo.username == '{{ $operator }}'
  validations:
  - expression: >-
      request.resource.resource in ['adapters', 'modelendpoints', 'shadowtests', 'serviceaccounts', 'configmaps'] ||
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
      request.resource.resource != 'modelendpoints' || [object, oldObject].all(o, o == null ||
      ('graft.dev/shadowtest' in o.?metadata.?labels.orValue({}) && dyn(o).?spec.?shadow.hasValue()))
    message: the graft operator writes ModelEndpoints only for ShadowTests, with the label graft.dev/shadowtest and spec.shadow
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'shadowtests' || [object, oldObject].all(o, o == null ||
      o.?metadata.?ownerReferences.orValue([]).exists(r, r.?controller.orValue(false) && r.kind == 'Adapter' &&
      r.apiVersion.startsWith('graft.dev/')))
    message: the graft operator writes ShadowTests only for promotion, with an Adapter as controller
    reason: Forbidden
  - expression: >-
      request.resource.resource != 'finetunejobs' ||
      [object, oldObject].all(o, o == null || 'graft.dev/tuningpolicy' in o.?metadata.?labels.orValue({}))
    message: the graft operator creates and deletes FineTuneJobs only for TuningPolicies, with the label graft.dev/tuningpolicy
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

{{- /* Whether pods of this pod spec can get a token for a door or a collector. */ -}}
{{- define "graft.knocks" -}}
{{ . }}.?volumes.orValue([]).exists(v, v.?projected.?sources.orValue([]).exists(s, {{/**/ -}}
s.?serviceAccountToken.?audience.orValue('').startsWith('graft.dev/')))
{{- end }}

{{- /* Whether the test of this domain's promotion names a program. */ -}}
{{- define "graft.programmed" -}}
{{ . }}.?promotion.?shadow.?metrics.orValue([]).exists(m, m.?scorer.?command.hasValue())
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
