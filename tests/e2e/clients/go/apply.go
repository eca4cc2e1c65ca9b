package main

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/util/csaupgrade"
	"k8s.io/client-go/util/retry"
)

// Server-side apply with apply configurations: owners, conflicts, and taking back what one has said.
func applies(t *talk) {
	deployments := t.typed.AppsV1().Deployments(t.space)
	labels := map[string]string{"app": "applied"}
	container := coreapply.Container().WithName("main").WithImage("nowhere/one:v1").
		WithPorts(coreapply.ContainerPort().WithContainerPort(80), coreapply.ContainerPort().WithContainerPort(81))
	wish := appsapply.Deployment("applied", t.space).WithLabels(labels).WithSpec(appsapply.DeploymentSpec().
		WithReplicas(2).WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().WithContainers(container))))
	mine := metav1.ApplyOptions{FieldManager: "mine"}
	made := got(deployments.Apply(t.ctx, wish, mine))
	expect(made.Generation == 1 && made.ManagedFields[0].Operation == metav1.ManagedFieldsOperationApply, "%v is mine", made.ManagedFields)
	same := got(deployments.Apply(t.ctx, wish, mine))
	expect(same.Generation == 1, "nothing changes when the same is applied")

	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale := got(deployments.GetScale(t.ctx, "applied", metav1.GetOptions{}))
		scale.Spec.Replicas = 3
		_, err := deployments.UpdateScale(t.ctx, "applied", scale, metav1.UpdateOptions{FieldManager: "scaler"})
		return err
	}))
	_, err := deployments.Apply(t.ctx, wish, mine)
	cause, found := errors.StatusCause(err, metav1.CauseTypeFieldManagerConflict)
	expect(errors.IsConflict(err) && found && cause.Field == ".spec.replicas", "%v is a conflict over replicas: %v", err, cause)
	forced := mine
	forced.Force = true
	expect(*got(deployments.Apply(t.ctx, wish, forced)).Spec.Replicas == 2, "force has its way")

	held := got(deployments.Get(t.ctx, "applied", metav1.GetOptions{}))
	extracted := got(appsapply.ExtractDeployment(held, "mine"))
	ports := extracted.Spec.Template.Spec.Containers[0].Ports
	expect(*extracted.Spec.Replicas == 2 && len(ports) == 2 && extracted.Spec.Strategy == nil, "%v is what was said", extracted)
	extracted.Spec.Template.Spec.Containers[0].Ports = ports[:1]
	extracted.Labels = nil
	reduced := got(deployments.Apply(t.ctx, extracted, mine))
	expect(len(reduced.Spec.Template.Spec.Containers[0].Ports) == 1 && len(reduced.Labels) == 0, "%v lost what is no longer said", reduced)
	other := appsapply.Deployment("applied", t.space).WithSpec(appsapply.DeploymentSpec().WithTemplate(coreapply.PodTemplateSpec().
		WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("side").WithImage("nowhere/two:v1")))))
	both := got(deployments.Apply(t.ctx, other, metav1.ApplyOptions{FieldManager: "other"}))
	expect(len(both.Spec.Template.Spec.Containers) == 2, "two managers share a list")
	gone := got(deployments.Apply(t.ctx, appsapply.Deployment("applied", t.space), metav1.ApplyOptions{FieldManager: "other"}))
	expect(len(gone.Spec.Template.Spec.Containers) == 1, "a manager takes its own away")

	condition := appsapply.DeploymentCondition().WithType("Mine").WithStatus(corev1.ConditionTrue).WithReason("Said").WithMessage("so")
	status := appsapply.Deployment("applied", t.space).WithStatus(appsapply.DeploymentStatus().WithConditions(condition))
	told := got(deployments.ApplyStatus(t.ctx, status, metav1.ApplyOptions{FieldManager: "teller"}))
	conditions := sets.New[appsv1.DeploymentConditionType]()
	for _, condition := range told.Status.Conditions {
		conditions.Insert(condition.Type)
	}
	expect(conditions.Has("Mine"), "%v were applied", told.Status.Conditions)
	_, err = deployments.Apply(t.ctx, wish, metav1.ApplyOptions{})
	expect(errors.IsInvalid(err) || errors.IsBadRequest(err), "%v asks for a manager", err)
	upgraded(t)
}

// Fields that were kept by client-side apply pass to server-side apply.
func upgraded(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	const old, fresh = "kubectl-client-side-apply", "kubectl"
	made := got(maps.Create(t.ctx, configMap("upgraded", map[string]string{"a": "1", "b": "2"}), metav1.CreateOptions{FieldManager: old}))
	patch := got(csaupgrade.UpgradeManagedFieldsPatch(made, sets.New(old), fresh))
	got(maps.Patch(t.ctx, "upgraded", types.JSONPatchType, patch, metav1.PatchOptions{}))
	less := coreapply.ConfigMap("upgraded", t.space).WithLabels(made.Labels).WithData(map[string]string{"a": "1"})
	held := got(maps.Apply(t.ctx, less, metav1.ApplyOptions{FieldManager: fresh}))
	expect(len(held.Data) == 1, "%v has lost what is no longer said", held.Data)
}
