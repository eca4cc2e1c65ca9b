package main

import (
	"fmt"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// Every verb, in both encodings, and every error that controllers tell apart.
func objects(t *talk) {
	for name, client := range map[string]*kubernetes.Clientset{"json": t.json, "protobuf": t.typed} {
		maps := client.CoreV1().ConfigMaps(t.space)
		first := got(maps.Create(t.ctx, configMap(name, map[string]string{"a": "1"}), metav1.CreateOptions{}))
		expect(first.UID != "" && first.ResourceVersion != "" && !first.CreationTimestamp.IsZero(), "%v has metadata", first)
		_, err := maps.Create(t.ctx, configMap(name, nil), metav1.CreateOptions{})
		expect(errors.IsAlreadyExists(err), "%v is AlreadyExists", err)
		_, err = maps.Get(t.ctx, "nothing", metav1.GetOptions{})
		expect(errors.IsNotFound(err), "%v is NotFound", err)
		_, err = maps.Create(t.ctx, configMap("Not A Name", nil), metav1.CreateOptions{})
		expect(errors.IsInvalid(err), "%v is Invalid", err)
		cause, found := errors.StatusCause(err, metav1.CauseTypeFieldValueInvalid)
		expect(found && cause.Field == "metadata.name", "%v names the field, not %v", err, cause)

		second := copied(first)
		second.BinaryData = map[string][]byte{"b": {0, 255}}
		second = got(maps.Update(t.ctx, second, metav1.UpdateOptions{}))
		_, err = maps.Update(t.ctx, first, metav1.UpdateOptions{})
		expect(errors.IsConflict(err), "%v is a Conflict", err)
		for kind, patch := range map[types.PatchType]string{
			types.MergePatchType:          `{"data":{"merge":"x"}}`,
			types.StrategicMergePatchType: `{"data":{"strategic":"x"}}`,
			types.JSONPatchType:           `[{"op":"add","path":"/data/json","value":"x"}]`,
		} {
			got(maps.Patch(t.ctx, name, kind, []byte(patch), metav1.PatchOptions{}))
		}
		held := got(maps.Get(t.ctx, name, metav1.GetOptions{}))
		expect(len(held.Data) == 4 && held.BinaryData["b"][1] == 255, "%v has what was written", held)
		dry := copied(held)
		dry.Data = nil
		got(maps.Update(t.ctx, dry, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}))
		expect(got(maps.Get(t.ctx, name, metav1.GetOptions{})).ResourceVersion == held.ResourceVersion, "a dry run changes nothing")

		other := types.UID("other")
		err = maps.Delete(t.ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
		expect(errors.IsConflict(err), "%v is a Conflict", err)
		must(maps.Delete(t.ctx, name, *metav1.NewPreconditionDeleteOptions(string(held.UID))))
	}

	counted(t)
	generated(t)
	collections(t)
	everyKindLists(t)
}

// Writers that race, each of which tries again on a conflict.
func counted(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	got(maps.Create(t.ctx, configMap("count", map[string]string{}), metav1.CreateOptions{}))
	var writers sync.WaitGroup
	for number := range 4 {
		writers.Go(func() {
			must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
				held, err := maps.Get(t.ctx, "count", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if held.Data == nil {
					held.Data = map[string]string{}
				}
				held.Data[fmt.Sprint(number)] = "here"
				_, err = maps.Update(t.ctx, held, metav1.UpdateOptions{})
				return err
			}))
		})
	}
	writers.Wait()
	expect(len(got(maps.Get(t.ctx, "count", metav1.GetOptions{})).Data) == 4, "every writer's key is there")
}

func generated(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "some-"}}
	made := got(maps.Create(t.ctx, one, metav1.CreateOptions{FieldManager: "namer"}))
	expect(strings.HasPrefix(made.Name, "some-") && len(made.Name) == len("some-")+5, "%q is a generated name", made.Name)
	expect(made.ManagedFields == nil || made.ManagedFields[0].Manager == "namer", "%v names the manager", made.ManagedFields)
	frozen := configMap("frozen", map[string]string{"a": "1"})
	yes := true
	frozen.Immutable = &yes
	frozen = got(maps.Create(t.ctx, frozen, metav1.CreateOptions{}))
	frozen.Data["a"] = "2"
	_, err := maps.Update(t.ctx, frozen, metav1.UpdateOptions{})
	_, forbidden := errors.StatusCause(err, "FieldValueForbidden")
	expect(errors.IsInvalid(err) && forbidden, "%v forbids it", err)
}

func collections(t *talk) {
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	for number := range 3 {
		got(maps.Create(t.ctx, configMap(fmt.Sprintf("many-%d", number), nil), metav1.CreateOptions{}))
	}
	one := fields.OneTermEqualSelector("metadata.name", "many-1").String()
	expect(len(got(maps.List(t.ctx, metav1.ListOptions{FieldSelector: one})).Items) == 1, "a field selects one")
	must(maps.DeleteCollection(t.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "made-by in (go)"}))
	left := got(maps.List(t.ctx, metav1.ListOptions{LabelSelector: "made-by"}))
	expect(len(left.Items) == 0, "%d are gone", len(left.Items))
	_, err := maps.List(t.ctx, metav1.ListOptions{FieldSelector: "data.a=1"})
	expect(errors.IsBadRequest(err), "%v is a bad request", err)
	_, err = maps.List(t.ctx, metav1.ListOptions{LabelSelector: "a=="})
	expect(err == nil, "an empty value selects: %v", err)
	_, err = maps.List(t.ctx, metav1.ListOptions{LabelSelector: "a,=b"})
	expect(errors.IsBadRequest(err), "%v is a bad request", err)
}

// Every built-in kind that can be listed answers a typed client in protobuf.
func everyKindLists(t *talk) {
	_, lists, err := t.typed.Discovery().ServerGroupsAndResources()
	must(err)
	for _, list := range lists {
		version := got(schema.ParseGroupVersion(list.GroupVersion))
		for _, resource := range list.APIResources {
			if !strings.Contains(resource.Verbs.String(), "list") || !scheme.Scheme.IsVersionRegistered(version) {
				continue
			}
			path := "/apis/" + list.GroupVersion
			if list.GroupVersion == "v1" {
				path = "/api/v1"
			}
			result := t.typed.CoreV1().RESTClient().Get().AbsPath(path, resource.Name).SetHeader("Accept", protobuf).Do(t.ctx)
			var kind string
			result.ContentType(&kind)
			_, err := result.Get()
			expect(err == nil && kind == protobuf, "%s %s is listed in protobuf: %q %v", list.GroupVersion, resource.Name, kind, err)
		}
	}
}

// Long lists come in pages, and an old page is told to start anew.
func pages(t *talk) {
	const count = 25
	maps := t.typed.CoreV1().ConfigMaps(t.space)
	for number := range count {
		got(maps.Create(t.ctx, configMap(fmt.Sprintf("page-%02d", number), nil), metav1.CreateOptions{}))
	}
	t.eventually("the certificate that every namespace is given is there", func() bool {
		_, err := maps.Get(t.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil
	})
	selected := metav1.ListOptions{LabelSelector: "made-by=go"}
	paged := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(t.ctx, options)
	}))
	paged.PageSize = 4
	var names []string
	must(paged.EachListItem(t.ctx, selected, func(object runtime.Object) error {
		names = append(names, object.(*corev1.ConfigMap).Name)
		return nil
	}))
	expect(len(names) == count && names[0] == "page-00" && names[count-1] == "page-24", "%v are all", names)
	asked := t.requests.about("GET", t.space+"/configmaps?", "limit=4")
	expect(len(asked) == 7, "%v are seven pages", asked)

	const all = count + 1
	first := got(maps.List(t.ctx, metav1.ListOptions{Limit: 10}))
	expect(first.RemainingItemCount != nil && *first.RemainingItemCount == all-10, "%v remain", first.RemainingItemCount)
	must(maps.Delete(t.ctx, "page-20", metav1.DeleteOptions{}))
	rest := got(maps.List(t.ctx, metav1.ListOptions{Continue: first.Continue}))
	expect(len(rest.Items) == all-10 && rest.ResourceVersion == first.ResourceVersion, "the rest is of the first page's time")
	exact := metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	expect(len(got(maps.List(t.ctx, exact)).Items) == all, "a list of that time has what was there")
	_, err := maps.List(t.ctx, metav1.ListOptions{Continue: "nonsense"})
	expect(errors.IsBadRequest(err), "%v is a bad request", err)
	_, err = maps.List(t.ctx, metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	expect(errors.IsInvalid(err), "%v is Invalid", err)
	_, err = maps.List(t.ctx, metav1.ListOptions{ResourceVersion: "9223372036854775000"})
	expect(errors.IsTimeout(err) && errors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge), "%v is too large", err)
}

func deployment(name, image string, replicas int32, command ...string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	container := corev1.Container{Name: "main", Image: image, Args: command}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
			},
		},
	}
}
