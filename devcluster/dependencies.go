// Package devcluster keeps the Gateway API module in go.mod: its CRD manifests are installed, none of its code is built.
package devcluster

import _ "sigs.k8s.io/gateway-api/apis/v1"
