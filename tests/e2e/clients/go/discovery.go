package main

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
)

// What is served: groups, kinds, short names, categories and schemas.
func discoveries(t *talk) {
	client := t.json.Discovery()
	version := got(client.ServerVersion())
	expect(version.Major == "1" && version.Minor == "36", "%v is 1.36", version)
	before := len(t.requests.about("GET /api"))
	groups, lists, err := client.ServerGroupsAndResources()
	must(err)
	asked := t.requests.about("GET /api")[before:]
	expect(len(asked) == 2 && strings.Contains(asked[0], "as=APIGroupDiscoveryList"), "two requests discover all, not %v", asked)
	expect(len(groups) > 20 && len(lists) >= len(groups), "%d groups, %d lists", len(groups), len(lists))
	got(client.ServerPreferredNamespacedResources())

	cached := memory.NewMemCacheClient(client)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	short := restmapper.NewShortcutExpander(mapper, cached, nil)
	for word, want := range map[string]string{
		"po": "pods", "deploy": "deployments", "hpa": "horizontalpodautoscalers", "netpol": "networkpolicies", "pod": "pods", "crd": "customresourcedefinitions",
	} {
		found := got(short.ResourceFor(schema.GroupVersionResource{Resource: word}))
		expect(found.Resource == want, "%q is %v", word, found)
	}
	mapping := got(mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"}))
	expect(mapping.Resource.Version == "v1" && mapping.Scope.Name() == "namespace", "%v is v1", mapping)
	all, found := restmapper.NewDiscoveryCategoryExpander(cached).Expand("all")
	expect(found && len(all) >= 9, "%v are all", all)

	document := got(client.OpenAPISchema())
	expect(len(document.GetDefinitions().GetAdditionalProperties()) > 500, "the whole API is described")
	root := openapi3.NewRoot(client.OpenAPIV3())
	expect(len(got(root.GroupVersions())) >= len(groups), "each group is described")
	specification := got(root.GVSpec(corev1.SchemeGroupVersion))
	expect(specification.Components.Schemas["io.k8s.api.core.v1.Pod"] != nil, "v1 describes pods")
}
