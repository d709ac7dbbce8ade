// Command argolua runs the Lua of resource customizations as Argo CD does: with the same interpreter, the same
// libraries, the same limit of time, and the same conversion of objects.
//
// Input: a JSON object per line with kind (health, discovery or action), script, object, and the clock that the script
// sees: now (seconds since 1970) and zone (seconds east of UTC). Output: a line for each with result or error.
package main

import (
	"bufio"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

type request struct {
	Kind   string         `json:"kind"`
	Script string         `json:"script"`
	Object map[string]any `json:"object"`
	Now    int64          `json:"now"`
	Zone   int            `json:"zone"`
}

type answer struct {
	Result any    `json:"result"`
	Error  string `json:"error,omitempty"`
}

func main() {
	answers := os.Stdout
	// Lua's print writes to the standard output, which is for answers.
	os.Stdout = os.Stderr
	if err := serve(bufio.NewReader(os.Stdin), answers); err != nil {
		fmt.Fprintln(os.Stderr, "argolua:", err)
		os.Exit(1)
	}
}

func serve(requests *bufio.Reader, answers io.Writer) error {
	encoder := stdjson.NewEncoder(answers)
	for {
		line, err := requests.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var asked request
		// Not the decoder of the standard library: a generation has to stay a whole number.
		if err := json.Unmarshal(line, &asked); err != nil {
			return err
		}
		var told answer
		if told.Result, err = asked.answered(); err != nil {
			told = answer{Error: err.Error()}
		}
		if err := encoder.Encode(told); err != nil {
			return err
		}
	}
}

func (asked request) answered() (any, error) {
	object := unstructured.Unstructured{Object: asked.Object}
	if asked.Kind == "health" && object.GetDeletionTimestamp() != nil {
		// Argo CD does not ask a script about what is being deleted.
		return verdict{"Progressing", "Pending deletion"}, nil
	}
	local := time.FixedZone("local", asked.Zone)
	returned, err := run(asked.Script, asked.Object, clock{time.Unix(asked.Now, 0).In(local)})
	if err != nil {
		return nil, err
	}
	switch asked.Kind {
	case "health":
		return health(returned)
	case "discovery":
		return discovered(returned)
	case "action":
		return changed(returned, asked.Object)
	}
	return nil, fmt.Errorf("no kind of script: %q", asked.Kind)
}
