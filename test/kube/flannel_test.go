package kube_test

import (
	"encoding/json"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/dynamic"
)

const flannelsOwn = "testdata/flannel.yml"

// Both manifests are one but for names, labels and flannel's form of the CNI
// configuration.
func TestTheManifestsAreOne(t *testing.T) {
	kinds := map[string][]string{}
	for _, path := range []string{manifest, fromFlannel} {
		all, err := objects(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			kinds[path] = append(kinds[path], o.GetKind())
		}
	}
	if diff := gocmp.Diff(kinds[manifest], kinds[fromFlannel]); diff != "" {
		t.Errorf("kinds (-%s +%s):\n%s", manifest, fromFlannel, diff)
	}
	a, b := object[appsv1.DaemonSet](t, manifest, "DaemonSet"), object[appsv1.DaemonSet](t, fromFlannel, "DaemonSet")
	pod := &b.Spec.Template.Spec
	c := &pod.Containers[0]
	c.Name, pod.ServiceAccountName = "weftd", "weft"
	c.VolumeMounts[0].MountPath, pod.Volumes[0].ConfigMap.Name = "/etc/kube-weft", "weft-config"
	c.Args[1], c.Args[3] = "--net-config-path=/etc/kube-weft/net-conf.json", "--cni-conf=/etc/kube-weft/cni-conf.json"
	c.Args[4] = "--cni-conf-file=/host/etc/cni/net.d/10-weft.conflist"
	if diff := gocmp.Diff(a.Spec.Template.Spec, *pod); diff != "" {
		t.Errorf("pods (-%s +%s):\n%s", manifest, fromFlannel, diff)
	}
	if diff := gocmp.Diff(a.Spec.UpdateStrategy, b.Spec.UpdateStrategy); diff != "" {
		t.Errorf("updates (-%s +%s):\n%s", manifest, fromFlannel, diff)
	}
}

// Over flannel, kubectl apply changes flannel's objects, to exactly what the
// manifest says: nothing of flannel's pod is left in weft's.
func TestOverFlannel(t *testing.T) {
	t.Parallel()
	c := own(t)
	before, err := c.apply(t.Context(), flannelsOwn)
	if err != nil {
		t.Fatal(err)
	}
	c.kubectlApply(t, flannelsOwn, fromFlannel)
	set, err := c.admin.AppsV1().DaemonSets("kube-flannel").Get(t.Context(), "kube-flannel-ds", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := before[len(before)-1]
	if set.UID != old.GetUID() || set.Generation != old.GetGeneration()+1 {
		t.Errorf("it is no change of flannel's DaemonSet: generation %d", set.Generation)
	}
	fresh := own(t)
	if _, err := fresh.apply(t.Context(), fromFlannel); err != nil {
		t.Fatal(err)
	}
	want, err := fresh.admin.AppsV1().DaemonSets("kube-flannel").Get(t.Context(), "kube-flannel-ds", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want.Spec.Template.Spec, set.Spec.Template.Spec); diff != "" {
		t.Errorf("pods (-on a new cluster +over flannel):\n%s", diff)
	}
	c.kubectlApply(t, fromFlannel, flannelsOwn) // the way back
	set, err = c.admin.AppsV1().DaemonSets("kube-flannel").Get(t.Context(), "kube-flannel-ds", metav1.GetOptions{})
	if err != nil || len(set.Spec.Template.Spec.InitContainers) != 2 {
		t.Errorf("flannel is not back: %+v, %v", set.Spec.Template.Spec, err)
	}
}

// kubectlApply does what kubectl apply does on the client's side: of objects
// that an earlier manifest made, it patches what differs between the three.
func (c *cluster) kubectlApply(t *testing.T, earlier, path string) {
	t.Helper()
	last := map[string]*unstructured.Unstructured{}
	all, err := objects(earlier)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		last[o.GetKind()+o.GetName()] = o
	}
	if all, err = objects(path); err != nil {
		t.Fatal(err)
	}
	kinds, err := c.kinds()
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(c.server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		kind := o.GroupVersionKind()
		at, err := kinds.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			t.Fatal(err)
		}
		to := client.Resource(at.Resource).Namespace(o.GetNamespace())
		original := last[o.GetKind()+o.GetName()]
		if original == nil {
			if _, err := to.Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		current, err := to.Get(t.Context(), o.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = to.Patch(t.Context(), o.GetName(), types.StrategicMergePatchType, threeWay(t, original, o, current),
			metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict})
		if err != nil {
			t.Fatalf("patch %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

func threeWay(t *testing.T, original, modified, current *unstructured.Unstructured) []byte {
	t.Helper()
	schema, err := strategicpatch.NewPatchMetaFromStruct(map[string]any{
		"Namespace": corev1.Namespace{}, "ServiceAccount": corev1.ServiceAccount{}, "ConfigMap": corev1.ConfigMap{},
		"ClusterRole": rbacv1.ClusterRole{}, "ClusterRoleBinding": rbacv1.ClusterRoleBinding{},
		"DaemonSet": appsv1.DaemonSet{},
	}[modified.GetKind()])
	if err != nil {
		t.Fatal(err)
	}
	var raw [][]byte
	for _, o := range []*unstructured.Unstructured{original, modified, current} {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(raw[0], raw[1], raw[2], schema, true)
	if err != nil {
		t.Fatal(err)
	}
	return patch
}
