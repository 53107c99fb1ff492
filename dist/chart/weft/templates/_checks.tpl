{{/* Refuses, by name, what flannel's chart has and weft doesn't. */}}
{{- define "weft.checks" -}}
{{- $f := .Values.flannel -}}
{{- if $f.image -}}
{{- fail "flannel.image names flannel's image: take it out, and name weft's by image.repository and image.tag" -}}
{{- end -}}
{{- if $f.flannel_cni -}}
{{- fail "flannel.flannel_cni: take it out, the CNI plugin is in weft's image" -}}
{{- end -}}
{{- if not (has $f.backend (list "vxlan" "host-gw" "alloc")) -}}
{{- fail (printf "flannel.backend is %q, which weft does not have: use vxlan, host-gw or alloc" $f.backend) -}}
{{- end -}}
{{- range $name := list "backendPortv6" "psk" "tunnelMode" "keepaliveInterval" -}}
{{- if index $f $name -}}
{{- fail (printf "flannel.%s is for wireguard, which weft does not have: take it out" $name) -}}
{{- end -}}
{{- end -}}
{{- if $f.macPrefix -}}
{{- fail "flannel.macPrefix is for Windows, which weft does not run on: take it out" -}}
{{- end -}}
{{- if and (kindIs "bool" $f.enableNFTables) (not $f.enableNFTables) (not .Values.image.iptables) -}}
{{- fail "flannel.enableNFTables is false, which asks for iptables: leave it out for nftables, or name an image of dist/docker/Dockerfile.iptables in image, and set image.iptables to true" -}}
{{- end -}}
{{- if (.Values.netpol | default dict).enabled -}}
{{- fail "netpol.enabled: weft's chart installs no network policies; install kube-network-policies by its own manifest" -}}
{{- end -}}
{{- if not (or .Values.podCidr .Values.podCidrv6) -}}
{{- fail "podCidr and podCidrv6 are both empty: set the cluster CIDR" -}}
{{- end -}}
{{- range $arg := $f.args -}}
{{- if and $.Values.admissionPolicy (contains "kube-annotation-prefix" $arg) -}}
{{- fail (printf "flannel.args has %q, and the admission policy allows flannel's annotations only: set admissionPolicy to false" $arg) -}}
{{- end -}}
{{- range $own := list "net-config-path" "cni-conf" "cni-conf-file" "cni-bin-dir" "sysctl-dir" "healthz-ip" "healthz-port" -}}
{{- if eq $own (trimPrefix "-" (trimPrefix "-" (first (splitList "=" $arg)))) -}}
{{- fail (printf "flannel.args has %q, which the chart sets itself: take it out, and look among the other values" $arg) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "weft.labels" -}}
app.kubernetes.io/name: weft
{{- end -}}
