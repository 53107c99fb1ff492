// Package chart_test renders the Helm chart, as helm template does.
package chart_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	yamls "sigs.k8s.io/yaml"
)

const (
	manifest = "../../../dist/kubernetes/weft.yml"
	source   = "../../../dist/chart/weft"
	space    = "kube-weft"
)

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(source)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render gives the objects of a release with these values, which are YAML.
func render(t *testing.T, values string) (map[string]*unstructured.Unstructured, error) {
	t.Helper()
	var given chartutil.Values
	if err := yamls.Unmarshal([]byte(values), &given); err != nil {
		t.Fatal(err)
	}
	c := load(t)
	release := chartutil.ReleaseOptions{Name: "weft", Namespace: space, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var whole bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".yaml") {
			whole.WriteString("\n---\n" + files[name])
		}
	}
	return objects(t, &whole), nil
}

// objects are the documents of a manifest by kind and name.
func objects(t *testing.T, from io.Reader) map[string]*unstructured.Unstructured {
	t.Helper()
	out := map[string]*unstructured.Unstructured{}
	documents := yaml.NewYAMLOrJSONDecoder(from, 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := documents.Decode(o); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			out[o.GetKind()+" "+o.GetName()] = o
		}
	}
}

// With its own values the chart is the manifest, but for the namespace, which
// Helm makes.
func TestDefaultsAreTheManifest(t *testing.T) {
	f, err := os.Open(manifest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := objects(t, f)
	have, err := render(t, "createNamespace: true")
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, have); diff != "" || len(want) < 10 {
		t.Errorf("%d objects of the manifest; (-manifest +chart):\n%s", len(want), diff)
	}
	plain, err := render(t, "")
	if err != nil {
		t.Fatal(err)
	}
	delete(want, "Namespace "+space)
	if diff := gocmp.Diff(want, plain); diff != "" {
		t.Errorf("without the namespace (-manifest +chart):\n%s", diff)
	}
}

// rendered is what values can change.
type rendered struct {
	network map[string]any // net-conf.json
	cni     string         // cni-conf.json
	set     appsv1.DaemonSet
	objects map[string]*unstructured.Unstructured
}

func (r *rendered) container() corev1.Container { return r.set.Spec.Template.Spec.Containers[0] }

func (r *rendered) volume(name string) corev1.VolumeSource {
	for _, v := range r.set.Spec.Template.Spec.Volumes {
		if v.Name == name {
			return v.VolumeSource
		}
	}
	return corev1.VolumeSource{}
}

func read(t *testing.T, values string) *rendered {
	t.Helper()
	all, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	r := &rendered{objects: all}
	var config corev1.ConfigMap
	for name, into := range map[string]any{"ConfigMap weft-config": &config, "DaemonSet weft": &r.set} {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(all[name].Object, into); err != nil {
			t.Fatal(err)
		}
	}
	r.cni = config.Data["cni-conf.json"]
	if err := json.Unmarshal([]byte(config.Data["net-conf.json"]), &r.network); err != nil {
		t.Fatalf("%v in:\n%s", err, config.Data["net-conf.json"])
	}
	return r
}

// netpol's values mean nothing while it is not enabled, here as in flannel's
// chart.
var accepted = map[string]struct {
	values string
	pick   func(*rendered) any
	want   any
}{
	"podCidr": {
		"podCidr: 10.1.0.0/16", func(r *rendered) any { return r.network },
		map[string]any{"Network": "10.1.0.0/16", "Backend": map[string]any{"Type": "vxlan"}},
	},
	"podCidrv6": {
		"{podCidr: '', podCidrv6: 'fd01::/48'}", func(r *rendered) any { return r.network },
		map[string]any{
			"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd01::/48", "Backend": map[string]any{"Type": "vxlan"},
		},
	},
	"flannel.backend":       {"flannel: {backend: host-gw, vni: 7}", backend, map[string]any{"Type": "host-gw"}},
	"flannel.backendPort":   {"flannel: {backendPort: 4789}", backend, map[string]any{"Type": "vxlan", "Port": 4789.0}},
	"flannel.mtu":           {"flannel: {mtu: 9000}", backend, map[string]any{"Type": "vxlan", "MTU": 9000.0}},
	"flannel.vni":           {"flannel: {vni: 16000000}", backend, map[string]any{"Type": "vxlan", "VNI": 16000000.0}},
	"flannel.GBP":           {"flannel: {GBP: true}", backend, map[string]any{"Type": "vxlan", "GBP": true}},
	"flannel.directRouting": {"flannel: {directRouting: true}", backend, map[string]any{"Type": "vxlan", "DirectRouting": true}},
	"flannel.enableNFTables": {
		"flannel: {enableNFTables: true}", func(r *rendered) any { return r.network["EnableNFTables"] }, true,
	},
	"flannel.enableNFTables, false": {
		"{flannel: {enableNFTables: false}, image: {iptables: true}}", func(r *rendered) any {
			return []any{r.network["EnableNFTables"], r.volume("xtables-lock").HostPath.Path}
		}, []any{false, "/run/xtables.lock"},
	},
	"flannel.args": {
		"flannel: {args: [--ip-masq, --kube-subnet-mgr, --iface=eth1]}", func(r *rendered) any {
			return r.container().Args[:4]
		}, []string{"--kube-subnet-mgr", "--net-config-path=/etc/kube-weft/net-conf.json", "--ip-masq", "--iface=eth1"},
	},
	"flannel.cniBinDir": {
		"flannel: {cniBinDir: /var/lib/cni/bin}", func(r *rendered) any { return r.volume("cni-bin").HostPath.Path }, "/var/lib/cni/bin",
	},
	"flannel.cniConfDir": {
		"flannel: {cniConfDir: /var/lib/cni/net.d}", func(r *rendered) any { return r.volume("cni-conf").HostPath.Path },
		"/var/lib/cni/net.d",
	},
	"flannel.skipCNIConfigInstallation": {
		"flannel: {skipCNIConfigInstallation: true}", func(r *rendered) any {
			v := r.volume("cni-conf")
			return v.HostPath == nil && v.EmptyDir != nil
		}, true,
	},
	"flannel.cniConf": {
		"flannel: {cniConf: '{\"name\": \"cbr0\"}'}", func(r *rendered) any { return strings.TrimSpace(r.cni) }, `{"name": "cbr0"}`,
	},
	"flannel.resources": {
		"flannel: {resources: {limits: {memory: 64Mi}}}", func(r *rendered) any {
			limits := r.container().Resources.Limits
			return limits.Memory().String()
		}, "64Mi",
	},
	"flannel.healthz.port": {
		"flannel: {healthz: {port: 9099}}", func(r *rendered) any {
			c := r.container()
			return []any{slices.Contains(c.Args, "--healthz-port=9099"), c.ReadinessProbe.HTTPGet.Port.IntValue()}
		}, []any{true, 9099},
	},
	"flannel.healthz.port, off": {
		"flannel: {healthz: {port: 0}}", func(r *rendered) any {
			on := slices.ContainsFunc(r.container().Args, func(a string) bool { return strings.Contains(a, "healthz") })
			return on || r.container().LivenessProbe != nil || r.container().ReadinessProbe != nil
		}, false,
	},
	"flannel.healthz.livenessProbe": {
		"flannel: {healthz: {livenessProbe: {initialDelaySeconds: 11}}}", func(r *rendered) any {
			return r.container().LivenessProbe.InitialDelaySeconds
		}, int32(11),
	},
	"flannel.healthz.readinessProbe": {
		"flannel: {healthz: {readinessProbe: {periodSeconds: 3}}}", func(r *rendered) any {
			return r.container().ReadinessProbe.PeriodSeconds
		}, int32(3),
	},
	"flannel.tolerations": {
		"flannel: {tolerations: []}", func(r *rendered) any { return len(r.set.Spec.Template.Spec.Tolerations) }, 0,
	},
	"flannel.nodeSelector": {
		"flannel: {nodeSelector: {pool: a}}", func(r *rendered) any { return r.set.Spec.Template.Spec.NodeSelector },
		map[string]string{"kubernetes.io/os": "linux", "pool": "a"},
	},
	"global.imagePullSecrets": {
		"global: {imagePullSecrets: [{name: a}]}", func(r *rendered) any { return r.set.Spec.Template.Spec.ImagePullSecrets[0].Name }, "a",
	},
	"global.imagePullSecrets, none": {
		"global: {imagePullSecrets: }", func(r *rendered) any { return len(r.set.Spec.Template.Spec.ImagePullSecrets) }, 0,
	},
	"netpol.args":  {"netpol: {args: [--v=2]}", func(r *rendered) any { return len(r.set.Spec.Template.Spec.Containers) }, 1},
	"netpol.image": {"netpol: {image: {tag: v1}}", func(r *rendered) any { return len(r.set.Spec.Template.Spec.Containers) }, 1},
	"image": {
		"image: {repository: example.com/weft, tag: v1}", func(r *rendered) any { return r.container().Image }, "example.com/weft:v1",
	},
	"maxUnavailable": {
		"maxUnavailable: 1", func(r *rendered) any { return r.set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() }, 1,
	},
	"admissionPolicy": {
		"admissionPolicy: false", func(r *rendered) any { return r.objects["ValidatingAdmissionPolicy weft-own-node"] == nil }, true,
	},
}

func backend(r *rendered) any { return r.network["Backend"] }

func TestValues(t *testing.T) {
	for name, tt := range accepted {
		t.Run(name, func(t *testing.T) {
			if diff := gocmp.Diff(tt.want, tt.pick(read(t, tt.values))); diff != "" {
				t.Errorf("%s (-want +have):\n%s", tt.values, diff)
			}
		})
	}
}

var refused = map[string]struct{ values, want string }{
	"flannel.image":             {"flannel: {image: {tag: v0.28.9}}", "image.repository"},
	"flannel.flannel_cni":       {"flannel: {flannel_cni: {image: {tag: v1}}}", "is in weft's image"},
	"flannel.backend, another":  {"flannel: {backend: wireguard}", "use vxlan, host-gw or alloc"},
	"flannel.backendPortv6":     {"flannel: {backendPortv6: 51821}", "wireguard"},
	"flannel.psk":               {"flannel: {psk: abc}", "wireguard"},
	"flannel.tunnelMode":        {"flannel: {tunnelMode: separate}", "wireguard"},
	"flannel.keepaliveInterval": {"flannel: {keepaliveInterval: 25}", "wireguard"},
	"flannel.macPrefix":         {"flannel: {macPrefix: 0E-2A}", "Windows"},
	"flannel.enableNFTables":    {"flannel: {enableNFTables: false}", "image.iptables"},
	"flannel.args":              {"flannel: {args: [--healthz-port=1]}", "the chart sets itself"},
	"flannel.args, the prefix":  {"flannel: {args: [--kube-annotation-prefix=a.b]}", "admissionPolicy"},
	"netpol.enabled":            {"netpol: {enabled: true}", "network policies"},
	"podCidr":                   {"podCidr: ''", "cluster CIDR"},
	"flannel.bakend":            {"flannel: {bakend: vxlan}", "bakend"},
	"flannel.vni":               {"flannel: {vni: one}", "vni"},
	"flannel.cniBinDir":         {"flannel: {cniBinDir: bin}", "cniBinDir"},
	"flannel.mtu":               {"flannel: {mtu: 70000}", "mtu"},
}

func TestRefusedValues(t *testing.T) {
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, tt.values)
			key, _, _ := strings.Cut(name, ",")
			key = key[strings.LastIndex(key, ".")+1:]
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), key) {
				t.Errorf("%s: want %q and %q, have %v", tt.values, key, tt.want, err)
			}
		})
	}
}

// Every value of flannel's chart v0.28.9 is accepted or refused above.
func TestEveryValueOfFlannels(t *testing.T) {
	for _, name := range strings.Fields(`podCidr podCidrv6 global.imagePullSecrets
		flannel.image flannel.flannel_cni flannel.cniBinDir flannel.cniConfDir flannel.skipCNIConfigInstallation
		flannel.enableNFTables flannel.args flannel.backend flannel.backendPort flannel.mtu flannel.vni flannel.GBP
		flannel.directRouting flannel.macPrefix flannel.backendPortv6 flannel.psk flannel.tunnelMode
		flannel.keepaliveInterval flannel.cniConf flannel.resources flannel.healthz.port flannel.healthz.livenessProbe
		flannel.healthz.readinessProbe flannel.tolerations flannel.nodeSelector
		netpol.enabled netpol.args netpol.image`) {
		_, yes := accepted[name]
		_, no := refused[name]
		if !yes && !no {
			t.Errorf("%s is in neither table", name)
		}
	}
}
