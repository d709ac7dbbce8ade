obj.spec.desiredState = "Active"
return obj
