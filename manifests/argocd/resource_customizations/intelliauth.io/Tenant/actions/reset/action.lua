if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["intelliauth.io/action"] = "reset"
return obj
