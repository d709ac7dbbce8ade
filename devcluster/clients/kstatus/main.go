// Command kstatus says what a client such as Flux makes of Kubernetes objects.
//
// Input: a JSON array of objects. Output: a JSON array of {"status", "message"} in the same order.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := judge(); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func judge() error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var objects []any
	// Not the decoder of the standard library: a generation has to stay a whole number.
	if err := json.Unmarshal(input, &objects); err != nil {
		return err
	}
	verdicts := make([]verdict, 0, len(objects))
	for _, object := range objects {
		fields, ok := object.(map[string]any)
		if !ok {
			return fmt.Errorf("%v is not an object", object)
		}
		result, err := status.Compute(&unstructured.Unstructured{Object: fields})
		if err != nil {
			return err
		}
		verdicts = append(verdicts, verdict{result.Status.String(), result.Message})
	}
	output, err := json.Marshal(verdicts)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(output)
	return err
}
