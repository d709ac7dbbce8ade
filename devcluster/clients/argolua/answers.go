package main

import (
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type action struct {
	Name        string `json:"name"`
	Disabled    bool   `json:"disabled"`
	DisplayName string `json:"displayName"`
	IconClass   string `json:"iconClass"`
}

var healthCodes = []string{"Unknown", "Progressing", "Healthy", "Suspended", "Degraded", "Missing"}

// health is the verdict that Argo CD shows.
func health(returned []byte) (any, error) {
	var told verdict
	if err := json.Unmarshal(returned, &told); err != nil {
		return nil, err
	}
	if !slices.Contains(healthCodes, told.Status) {
		return verdict{"Unknown", "Lua returned an invalid health status"}, nil
	}
	return told, nil
}

// discovered lists the actions in the order of their names; in Argo CD they have none.
func discovered(returned []byte) (any, error) {
	actions := []action{}
	// An empty table: whether it is a list or a map, Lua cannot tell.
	if string(returned) == "[]" {
		return actions, nil
	}
	var found map[string]json.RawMessage
	if err := json.Unmarshal(returned, &found); err != nil {
		return nil, err
	}
	for name, fields := range found {
		offered := action{Name: name}
		if fields[0] != '[' {
			if err := json.Unmarshal(fields, &offered); err != nil {
				return nil, err
			}
		}
		actions = append(actions, offered)
	}
	slices.SortFunc(actions, func(one, other action) int { return strings.Compare(one.Name, other.Name) })
	return actions, nil
}

// changed is the object whose difference from the one before Argo CD patches. Of the two things that an action may
// return, the object and a list of operations, it knows the first.
func changed(returned []byte, before map[string]any) (any, error) {
	var after unstructured.Unstructured
	if err := after.UnmarshalJSON(returned); err != nil {
		return nil, err
	}
	restore(after.Object, before)
	return after.Object, nil
}

// restore makes an empty map of an empty list where there was a map before. As in Argo CD, a map that is itself an
// element of a list stays as Lua returned it.
func restore(after, before any) {
	switch after := after.(type) {
	case map[string]any:
		before, _ := before.(map[string]any)
		for key, value := range after {
			list, isList := value.([]any)
			if _, wasMap := before[key].(map[string]any); wasMap && isList && len(list) == 0 {
				after[key] = map[string]any{}
				continue
			}
			restore(value, before[key])
		}
	case []any:
		before, _ := before.([]any)
		for index := range min(len(after), len(before)) {
			restore(after[index], before[index])
		}
	}
}
