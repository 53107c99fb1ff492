package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
)

const fromFlannel = "../../dist/kubernetes/weft-from-flannel.yml"

const (
	conflist = "../../dist/cni/10-weft.conflist"
	cniKey   = "cni-conf.json" // in the ConfigMap
)

// A node gets the same CNI configuration from a package and from the manifest.
func TestTheManifestsConflist(t *testing.T) {
	shipped, err := os.ReadFile(conflist)
	if err != nil {
		t.Fatal(err)
	}
	config := object[corev1.ConfigMap](t, manifest, "ConfigMap")
	if diff := gocmp.Diff(string(shipped), config.Data[cniKey]); diff != "" {
		t.Errorf("-%s +%s:\n%s", conflist, manifest, diff)
	}
}

// objects are the documents of a manifest, in order.
func objects(path string) ([]*unstructured.Unstructured, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := documents.Decode(o); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 { // it is, for the comment at the top
			out = append(out, o)
		}
	}
}

// warnings are what an API server says beside its answers.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// apply does to a manifest what kubectl apply --server-side does, object by
// object, and takes neither an unknown field nor a warning. It gives what the
// server has then.
func (c *cluster) apply(ctx context.Context, path string) ([]*unstructured.Unstructured, error) {
	all, err := objects(path)
	if err != nil {
		return nil, err
	}
	config := c.server.Admin()
	said := &warnings{}
	config.WarningHandler = said
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	kinds, err := c.kinds()
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, o := range all {
		kind := o.GroupVersionKind()
		at, err := kinds.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		resource := client.Resource(at.Resource).Namespace(o.GetNamespace())
		got, err := resource.Patch(ctx, o.GetName(), types.ApplyPatchType, raw,
			metav1.PatchOptions{FieldManager: "kubectl", FieldValidation: metav1.FieldValidationStrict})
		if err != nil {
			return nil, fmt.Errorf("apply %s %s: %w", kind.Kind, o.GetName(), err)
		}
		if len(said.all) > 0 {
			return nil, fmt.Errorf("apply %s %s: %s", kind.Kind, o.GetName(), strings.Join(said.all, "; "))
		}
		out = append(out, got)
	}
	return out, nil
}

func (c *cluster) kinds() (meta.RESTMapper, error) {
	groups, err := restmapper.GetAPIGroupResources(c.admin.Discovery())
	if err != nil {
		return nil, err
	}
	return restmapper.NewDiscoveryRESTMapper(groups), nil
}

// versions are the objects' resource versions by kind and name.
func versions(all []*unstructured.Unstructured) map[string]string {
	out := map[string]string{}
	for _, o := range all {
		out[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o.GetResourceVersion()
	}
	return out
}

// Each manifest is taken as it is shipped, and a second time changes nothing.
func TestManifests(t *testing.T) {
	for _, path := range []string{manifest, fromFlannel} {
		first, err := shared.apply(t.Context(), path)
		if err != nil {
			t.Fatal(path, err)
		}
		again, err := shared.apply(t.Context(), path)
		if err != nil {
			t.Fatal(path, err)
		}
		have := versions(again)
		if diff := gocmp.Diff(versions(first), have); diff != "" {
			t.Errorf("%s is no fixed point (-first +second):\n%s", path, diff)
		}
		if len(have) != 10 {
			t.Errorf("%s has %d objects: %v", path, len(have), have)
		}
	}
}

// What is written of the daemons' pods holds where pods are made: the limits of
// their namespaces let them in.
func TestTheDaemonsPodsAreLetIn(t *testing.T) {
	for _, path := range []string{manifest, fromFlannel} {
		if _, err := shared.apply(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		set := object[appsv1.DaemonSet](t, path, "DaemonSet")
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: set.Spec.Template.Labels}, Spec: set.Spec.Template.Spec,
		}
		config := shared.server.Admin()
		said := &warnings{}
		config.WarningHandler = said
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.CoreV1().Pods(set.Namespace).Create(t.Context(), pod, metav1.CreateOptions{
			DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
		})
		if err != nil || len(said.all) > 0 {
			t.Errorf("%s: %v, %v", path, err, said.all)
		}
	}
}

// object gives the one object of a kind out of a manifest.
func object[T any](t *testing.T, path, kind string) *T {
	t.Helper()
	all, err := objects(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.GetKind() != kind {
			continue
		}
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out := new(T)
		if err := json.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Fatalf("%s: no %s", path, kind)
	return nil
}

// The policies' expressions fit the types of what they look at, as the
// controller that checks them in a cluster finds.
func TestThePoliciesFitTheTypes(t *testing.T) {
	kinds, err := shared.kinds()
	if err != nil {
		t.Fatal(err)
	}
	checker := &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: shared.admin.Discovery()}, RestMapper: kinds,
	}
	for _, path := range []string{manifest, fromFlannel} {
		policy := object[admissionv1.ValidatingAdmissionPolicy](t, path, "ValidatingAdmissionPolicy")
		for _, w := range checker.Check(policy) {
			t.Errorf("%s: %s: %s", path, w.FieldRef, w.Warning)
		}
	}
}
