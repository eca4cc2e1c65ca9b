package main

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
)

// tree is an object without a type of its own.
type tree = map[string]any

func definition() *unstructured.Unstructured {
	integer := tree{"type": "integer"}
	properties := func(names ...string) tree {
		all := tree{}
		for _, name := range names {
			all[name] = integer
		}
		return tree{"type": "object", "properties": all}
	}
	spec := properties("size", "replicas")
	spec["properties"].(tree)["size"] = tree{"type": "integer", "minimum": int64(1)}
	scaled := tree{"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
	version := tree{
		"name": "v1", "served": true, "storage": true,
		"subresources": tree{"status": tree{}, "scale": scaled},
		"schema": tree{"openAPIV3Schema": tree{
			"type": "object", "properties": tree{"spec": spec, "status": properties("replicas")},
		}},
	}
	return &unstructured.Unstructured{Object: tree{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": tree{"name": "boats.go.example.com"},
		"spec": tree{
			"group": "go.example.com", "scope": "Namespaced", "versions": []any{version},
			"names": tree{"plural": "boats", "singular": "boat", "kind": "Boat", "shortNames": []any{"bt"}},
		},
	}}
}

func boat(name string, size int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: tree{
		"apiVersion": "go.example.com/v1", "kind": "Boat", "metadata": tree{"name": name}, "spec": tree{"size": size},
	}}
}

// A kind of one's own, through the dynamic client, its informer, and the client that scales anything.
func customResources(t *talk) {
	client := dynamic.NewForConfigOrDie(t.config)
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	got(definitions.Create(t.ctx, definition(), metav1.CreateOptions{}))
	t.eventually("the kind is established", func() bool {
		held := got(definitions.Get(t.ctx, "boats.go.example.com", metav1.GetOptions{}))
		conditions, _, _ := unstructured.NestedSlice(held.Object, "status", "conditions")
		for _, condition := range conditions {
			if condition := condition.(tree); condition["type"] == "Established" && condition["status"] == "True" {
				return true
			}
		}
		return false
	})
	resource := schema.GroupVersionResource{Group: "go.example.com", Version: "v1", Resource: "boats"}
	boats := client.Resource(resource).Namespace(t.space)
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, t.space, nil)
	informer := factory.ForResource(resource)
	factory.Start(t.ctx.Done())
	expect(cache.WaitForCacheSync(t.ctx.Done(), informer.Informer().HasSynced), "the cache syncs")

	got(boats.Create(t.ctx, boat("a", 1), metav1.CreateOptions{}))
	_, err := boats.Create(t.ctx, boat("b", 0), metav1.CreateOptions{})
	expect(errors.IsInvalid(err), "%v is Invalid", err)
	applied := got(boats.Apply(t.ctx, "b", boat("b", 2), metav1.ApplyOptions{FieldManager: "go"}))
	expect(applied.GetGeneration() == 1, "%v is new", applied)
	applied.Object["status"] = tree{"replicas": int64(7)}
	applied = got(boats.UpdateStatus(t.ctx, applied, metav1.UpdateOptions{}))
	expect(applied.GetGeneration() == 1, "a status makes no generation")
	t.eventually("the informer has the status", func() bool {
		object, err := informer.Lister().ByNamespace(t.space).Get("b")
		if err != nil {
			return false
		}
		replicas, _, _ := unstructured.NestedInt64(object.(*unstructured.Unstructured).Object, "status", "replicas")
		return replicas == 7
	})

	cached := memory.NewMemCacheClient(t.json.Discovery())
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	kinds := scale.NewDiscoveryScaleKindResolver(t.json.Discovery())
	scales := got(scale.NewForConfig(t.config, mapper, dynamic.LegacyAPIPathResolverFunc, kinds)).Scales(t.space)
	group := resource.GroupResource()
	wanted := &autoscalingv1.Scale{}
	read := got(scales.Get(t.ctx, group, "b", metav1.GetOptions{}))
	expect(read.Status.Replicas == 7, "%v has the status", read)
	wanted.ObjectMeta, wanted.Spec.Replicas = read.ObjectMeta, 3
	got(scales.Update(t.ctx, group, wanted, metav1.UpdateOptions{}))
	got(scales.Patch(t.ctx, resource, "b", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}))
	replicas, _, _ := unstructured.NestedInt64(got(boats.Get(t.ctx, "b", metav1.GetOptions{})).Object, "spec", "replicas")
	expect(replicas == 4, "%d is four", replicas)

	must(definitions.Delete(t.ctx, "boats.go.example.com", metav1.DeleteOptions{}))
	t.eventually("the kind is gone", func() bool {
		mapper.Reset()
		_, err := mapper.RESTMapping(schema.GroupKind{Group: "go.example.com", Kind: "Boat"})
		_, list := boats.List(t.ctx, metav1.ListOptions{})
		return meta.IsNoMatchError(err) && errors.IsNotFound(list)
	})
}
