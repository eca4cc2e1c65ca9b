package main

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// Objects' metadata alone, as the garbage collector reads them.
func metadatas(t *talk) {
	resource := corev1.SchemeGroupVersion.WithResource("configmaps")
	client := metadata.NewForConfigOrDie(t.config)
	maps := client.Resource(resource).Namespace(t.space)
	owner := got(t.typed.CoreV1().ConfigMaps(t.space).Create(t.ctx, configMap("owner", map[string]string{"a": "1"}), metav1.CreateOptions{}))
	held := got(maps.Get(t.ctx, "owner", metav1.GetOptions{}))
	expect(held.UID == owner.UID && held.Labels["made-by"] == "go", "%v is its metadata", held)
	got(maps.Patch(t.ctx, "owner", types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}))
	expect(len(t.requests.about("GET", t.space+"/configmaps/owner", protobuf)) > 0, "metadata comes in protobuf")

	factory := metadatainformer.NewFilteredSharedInformerFactory(client, 0, t.space, nil)
	informer := factory.ForResource(resource)
	factory.Start(t.ctx.Done())
	expect(cache.WaitForCacheSync(t.ctx.Done(), informer.Informer().HasSynced), "the cache syncs")
	kept := configMap("kept", nil)
	kept.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	got(t.typed.CoreV1().ConfigMaps(t.space).Create(t.ctx, kept, metav1.CreateOptions{}))
	t.eventually("the informer has what was written", func() bool {
		object, err := informer.Lister().ByNamespace(t.space).Get("kept")
		return err == nil && object.(*metav1.PartialObjectMetadata).OwnerReferences[0].Name == "owner"
	})
	foreground := metav1.DeletePropagationForeground
	must(maps.Delete(t.ctx, "owner", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	t.eventually("the owner went with what it owned", func() bool {
		list := got(maps.List(t.ctx, metav1.ListOptions{LabelSelector: "made-by=go"}))
		return len(list.Items) == 0
	})
}
