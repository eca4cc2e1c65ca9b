package main

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Tokens of service accounts, what they may do, and acting as somebody else.
func rights(t *talk) {
	accounts := t.typed.CoreV1().ServiceAccounts(t.space)
	got(accounts.Create(t.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}, metav1.CreateOptions{}))
	life := int64(600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &life}}
	token := got(accounts.CreateToken(t.ctx, "reader", request, metav1.CreateOptions{})).Status.Token
	config := rest.AnonymousClientConfig(t.config)
	config.BearerToken = token
	reader := kubernetes.NewForConfigOrDie(config)
	_, err := reader.CoreV1().ConfigMaps(t.space).List(t.ctx, metav1.ListOptions{})
	expect(errors.IsForbidden(err), "%v is Forbidden", err)

	name := metav1.ObjectMeta{Name: "reader"}
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}}
	got(t.typed.RbacV1().Roles(t.space).Create(t.ctx, &rbacv1.Role{ObjectMeta: name, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}))
	got(t.typed.RbacV1().RoleBindings(t.space).Create(t.ctx, &rbacv1.RoleBinding{
		ObjectMeta: name,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "reader", Namespace: t.space}},
	}, metav1.CreateOptions{}))
	t.eventually("the reader may list", func() bool {
		_, err := reader.CoreV1().ConfigMaps(t.space).List(t.ctx, metav1.ListOptions{})
		return err == nil
	})
	_, err = reader.CoreV1().ConfigMaps(t.space).Create(t.ctx, configMap("no", nil), metav1.CreateOptions{})
	expect(errors.IsForbidden(err), "%v is Forbidden", err)

	who := got(reader.AuthenticationV1().SelfSubjectReviews().Create(t.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	account := "system:serviceaccount:" + t.space + ":reader"
	expect(who.Status.UserInfo.Username == account, "%v is the reader", who.Status)
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	review = got(t.typed.AuthenticationV1().TokenReviews().Create(t.ctx, review, metav1.CreateOptions{}))
	expect(review.Status.Authenticated && review.Status.User.Username == account, "%v is the reader", review.Status)
	for verb, allowed := range map[string]bool{"watch": true, "delete": false} {
		ask := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: account, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: t.space, Verb: verb, Resource: "configmaps"},
		}}
		ask = got(t.typed.AuthorizationV1().SubjectAccessReviews().Create(t.ctx, ask, metav1.CreateOptions{}))
		expect(ask.Status.Allowed == allowed, "%s is %v", verb, ask.Status)
	}
	disguised := rest.CopyConfig(t.config)
	disguised.Impersonate.UserName = account
	_, err = kubernetes.NewForConfigOrDie(disguised).CoreV1().Secrets(t.space).List(t.ctx, metav1.ListOptions{})
	expect(errors.IsForbidden(err), "%v is Forbidden", err)
	config.BearerToken = "nonsense"
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets(t.space).List(t.ctx, metav1.ListOptions{})
	expect(errors.IsUnauthorized(err), "%v is Unauthorized", err)
}
